//! The `mlxlm` binary: arguments, progress and printing; what it does is in the other crates.
//!
//! Unusual: it never returns from `main`, see [`device::exit`].

mod args;
mod clock;
mod commands;
mod conversation;
mod failure;
mod help;
mod interrupt;
mod memory;
mod mode;
mod model;
mod output;
mod parse;
mod progress;
mod prompt;
mod settings;
mod terminal;
mod units;

use std::io::{self, Write};
use std::panic;

use mlxlm_core::{device, process};

use self::failure::Failure;

/// What Rust's own `main` ends with after a panic.
const PANICKED: i32 = 101;

#[global_allocator]
static MEMORY: process::Allocator = process::Allocator { refused: no_memory };

fn main() {
    process::ignore_file_size_signal();
    device::exit(panic::catch_unwind(run).unwrap_or(PANICKED))
}

/// Does what the arguments say; the exit code.
fn run() -> i32 {
    let done = parse::parse(std::env::args_os()).and_then(|cli| cli.map_or(Ok(()), commands::run));
    match done.and_then(|()| io::stdout().flush().map_err(|error| Failure::output(&error))) {
        Ok(()) => 0,
        Err(failure) if failure.is_broken_pipe() => 0,
        Err(failure) => {
            output::show(&failure);
            failure.code().into()
        }
    }
}

/// The last words where the system refuses memory. They must not need any.
fn no_memory(bytes: usize) -> ! {
    mode::restore();
    drop(writeln!(io::stderr(), "error: there is no memory left: the system refuses {bytes} more bytes"));
    device::exit(1)
}
