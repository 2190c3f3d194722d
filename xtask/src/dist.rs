//! `cargo xtask dist`: what a machine needs that has nothing of this repository, as an archive and as a Python wheel.
//!
//! Both hold the same tree: `bin/mlxlm`, MLX's libraries in `lib/mlxlm` as its own wheel lays them out, manual pages, completions
//! and licences. The binary finds the libraries from where it is.

mod check;
mod elf;
mod licences;
mod tree;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{PYTHON, Tool};
use crate::{process, run, setup, workspace};

const TAR: Tool = Tool::named("tar");

/// Build `mlxlm` for release and pack it for other machines: an archive and a wheel, in target/dist
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Also test both: unpack the archive into an empty root file system, install the wheel into a fresh environment
    #[arg(long)]
    test: bool,
    /// Pack this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// Build `mlxlm` for release and install it with its libraries, manual pages and completions
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct InstallArgs {
    /// Install bin, lib and share into this folder
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Also install mlx-lm's names: mlx_lm.generate, mlx_lm.chat, …
    #[arg(long)]
    mlx_lm_names: bool,
    /// Install this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// `cargo xtask dist`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = binary(args.binary.as_deref())?;
    let dist = workspace::root().join("target/dist");
    let name = format!("mlxlm-{}-{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
    let tree = dist.join(&name);
    if tree.exists() {
        std::fs::remove_dir_all(&tree).with_context(|| format!("cannot remove `{}`", tree.display()))?;
    }
    tree::make(&binary, &tree)?;
    let archive = dist.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&dist).args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-czf"]);
    process::succeed(tar.arg(&archive).arg(&name), TAR)?;
    let wheel = wheel::make(&tree, &dist)?;
    for file in [&archive, &wheel] {
        eprintln!("dist: {} ({:.1} MB)", file.display(), megabytes(file));
    }
    if args.test {
        check::archive(&archive, &name)?;
        check::wheel(&wheel)?;
    }
    Ok(())
}

/// `cargo xtask install`.
pub(crate) fn install(args: &InstallArgs) -> Result<()> {
    let binary = binary(args.binary.as_deref())?;
    let prefix = match &args.prefix {
        Some(prefix) => prefix.clone(),
        None => std::env::home_dir().context("there is no home folder\nhint: name one with `--prefix`")?.join(".local"),
    };
    tree::make(&binary, &prefix)?;
    let bin = prefix.join("bin");
    if args.mlx_lm_names {
        for command in MLX_LM {
            tree::link("mlxlm", &bin.join(format!("mlx_lm.{command}")))?;
        }
    }
    eprintln!("install: {}", bin.join("mlxlm").display());
    let is_on_path = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir == bin));
    if !is_on_path {
        eprintln!("hint: {} is not in PATH", bin.display());
    }
    Ok(())
}

/// The programs of mlx-lm 0.32.2; one that mlxlm does not have yet says so when it is called.
const MLX_LM: [&str; 17] = [
    "awq",
    "benchmark",
    "cache_prompt",
    "chat",
    "convert",
    "dwq",
    "dynamic_quant",
    "evaluate",
    "fuse",
    "generate",
    "gptq",
    "lora",
    "manage",
    "perplexity",
    "server",
    "share",
    "upload",
];

fn binary(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(file) => Ok(file.to_owned()),
        None => {
            setup::ensure()?;
            run::build(workspace::cargo())
        }
    }
}

fn megabytes(file: &Path) -> f64 {
    std::fs::metadata(file).map_or(0.0, |file| file.len() as f64 / 1e6)
}

/// Python, which writes the wheel.
fn python() -> (Command, Tool) {
    (Command::new("python3"), PYTHON)
}
