//! The `mlxlm` binary: arguments, progress and printing; what it does is in the other crates.

mod args;
mod commands;
mod conversation;
mod failure;
mod interrupt;
mod model;
mod output;
mod parse;
mod progress;
mod prompt;

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = parse::parse(std::env::args_os()).and_then(|cli| cli.map_or(Ok(()), commands::run));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output::show(&failure);
            ExitCode::from(failure.code())
        }
    }
}
