//! The commands, one file each.

mod benchmark;
mod cache_prompt;
mod chat;
mod convert;
mod generate;
mod manage;
mod models;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::failure::Result;
use crate::output;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result {
    if cli.cpu {
        mlxlm_core::device::use_cpu();
    }
    mlxlm_core::device::configure_kernels(cli.threads)?;
    match cli.command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::CachePrompt(args) => cache_prompt::run(&args),
        Command::Benchmark(args) => benchmark::run(&args),
        Command::Manage(args) => manage::run(&args),
        Command::Models => models::run(),
        Command::Completions { shell } => completions(shell),
    }
}

/// `completions`: a script for a shell. It is made in memory, because its maker panics where the reader has gone.
fn completions(shell: clap_complete::Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mlxlm", &mut script);
    output::print(format_args!("{}", String::from_utf8_lossy(&script)))
}
