//! `cargo xtask golden check DIR…`: models against golden cases that lie anywhere.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{setup, workspace};

/// Compare the logits of mlxlm with those of golden cases
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Cases, or folders of cases; without any, those of `mlxlm-models/tests/golden`
    dirs: Vec<PathBuf>,
    /// Only cases whose name begins so
    #[arg(long)]
    only: Vec<String>,
}

/// What makes a folder a case.
const EXPECTED: &str = "expected.safetensors";

pub(super) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let own = [workspace::root().join("mlxlm-models/tests/golden")];
    let dirs = if args.dirs.is_empty() { &own[..] } else { &args.dirs };
    let mut failed = Vec::new();
    for dir in dirs {
        let dir = dir.canonicalize().with_context(|| format!("cannot open `{}`", dir.display()))?;
        let (folder, names) = match (dir.join(EXPECTED).is_file(), dir.parent(), dir.file_name()) {
            (true, Some(parent), Some(name)) => (parent.to_owned(), vec![name.to_string_lossy().into_owned()]),
            _ => (dir.clone(), args.only.clone()),
        };
        let mut cargo = workspace::cargo();
        cargo
            .args(["run", "--quiet", "--package", "mlxlm-models", "--example", "golden", "--"])
            .arg(folder)
            .args(names);
        if !cargo.status().context("cannot run cargo")?.success() {
            failed.push(dir.display().to_string());
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => bail!("cases of `{}` fail", failed.join("`, `")),
    }
}
