//! `mlxlm-setup`: MLX for a project on Linux that depends on mlxlm's crates. It is run once, in the project's folder.
#![expect(clippy::print_stderr, reason = "a program for the terminal")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mlxlm_core::setup::{self, Args, bindings, tool};

/// Get MLX for the Rust project in this folder, and tell cargo where it is
///
/// Everything goes into `.mlx` and `.cargo` of the project. It takes about a minute, and needs g++, ar and python3 with pip.
#[derive(Parser)]
#[command(name = "mlxlm-setup", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Bindings(bindings::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.part {
        Some(Part::Bindings(args)) => bindings::run(args),
        None => set_up(&cli.args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn set_up(args: &Args) -> Result<()> {
    let root = root()?;
    // A project that was never built has no lock file yet.
    if !root.join("Cargo.lock").is_file() {
        tool::succeed(tool::cargo(&root).arg("generate-lockfile"), tool::CARGO)?;
    }
    setup::include(&root)?;
    setup::run(&root, args)
}

/// The folder of the workspace that this folder is in.
fn root() -> Result<PathBuf> {
    let mut cargo = tool::cargo(Path::new("."));
    cargo.args(["locate-project", "--workspace", "--message-format=plain"]);
    let manifest = tool::succeed(&mut cargo, tool::CARGO)?;
    Ok(Path::new(manifest.trim_end()).parent().unwrap_or(Path::new(".")).to_path_buf())
}
