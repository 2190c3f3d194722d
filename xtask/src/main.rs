//! `cargo xtask`: everything that is done to this repository, one file per command.
//!
//! It never depends on MLX or on crates that need it, because `setup` has to run before those can be built: of ours only on
//! `mlxlm-core` with nothing but the feature `setup`.
//! A new command is a module with `Args` and `run`, and one line in each of the three lists below.
#![expect(clippy::print_stderr, reason = "a program for the terminal")]

mod bench;
mod ci;
mod clients;
mod demo;
mod dist;
mod fuzz;
mod golden;
mod new_arch;
mod openapi;
mod real_model;
mod run;
mod sections;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mlxlm_core::setup::tool as process;

/// Maintain this repository
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    #[command(hide = true)]
    Bindings(setup::bindings::Args),
    Ci(ci::Args),
    DemoModel(demo::Args),
    Dist(dist::Args),
    Fuzz(fuzz::Args),
    Golden(golden::Args),
    Install(dist::InstallArgs),
    NewArch(new_arch::Args),
    #[command(name = "openapi")]
    OpenApi(openapi::Args),
    RealModel(real_model::Args),
    Run(run::Args),
    Setup(setup::Args),
    Test(test::Args),
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Bindings(args) => setup::bindings::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::DemoModel(args) => demo::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Golden(args) => golden::run(&args),
        Command::Install(args) => dist::install(&args),
        Command::NewArch(args) => new_arch::run(&args),
        Command::OpenApi(args) => openapi::run(&args),
        Command::RealModel(args) => real_model::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Tidy(args) => tidy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
