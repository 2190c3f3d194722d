//! `cargo xtask`: everything that is done to this repository, one file per command.
//!
//! It never depends on MLX or on the crates that do, because `setup` has to run before those can be built.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod process;
mod setup;
mod workspace;

use clap::{Parser, Subcommand};

/// What is done to this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    #[command(hide = true)]
    Bindings(setup::bindings::Args),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Bindings(args) => setup::bindings::run(&args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
