//! `cargo xtask golden exchange`: folders that go to Python mlx-lm and back, and the record of what Python says of them.
//!
//! The test `roundtrip` of mlxlm-cli makes our folders and compares; `golden/roundtrip.py` runs Python on them and writes
//! its own. What is left in `mlxlm-cli/tests/golden` lets the same test run everywhere, without Python.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Python;
use crate::process::{self, PYTHON};
use crate::{setup, workspace};

/// Exchange folders with Python mlx-lm, compare, and record what it says for the tests
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    python: Python,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.python.check()?;
    setup::ensure()?;
    let root = workspace::root();
    let work = root.join("target/golden");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot remove `{}`", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot create `{}`", work.display()))?;
    eprintln!("making our folders");
    test(&work)?;
    eprintln!("running Python on them");
    let script = root.join("xtask/src/golden/roundtrip.py");
    let said = process::succeed(args.python.command().arg(script).arg(&work), PYTHON)?;
    eprintln!("{}\ncomparing", said.lines().last().unwrap_or_default());
    test(&work)?;
    let golden = root.join("mlxlm-cli/tests/golden");
    for (from, to) in RECORDED {
        copy(&work.join(from), &golden.join(to))?;
    }
    eprintln!("recorded in mlxlm-cli/tests/golden");
    Ok(())
}

/// What is kept: from the folder of the work, to that of the golden records.
const RECORDED: [(&str, &str); 6] = [
    ("roundtrip.json", "roundtrip.json"),
    ("theirs/llama-q4/config.json", "mlx_lm_0.32.2/llama-q4/config.json"),
    ("theirs/llama-q4/model.safetensors", "mlx_lm_0.32.2/llama-q4/model.safetensors"),
    ("theirs/adapter/adapter_config.json", "mlx_lm_0.32.2/adapter/adapter_config.json"),
    ("theirs/adapter/adapters.safetensors", "mlx_lm_0.32.2/adapter/adapters.safetensors"),
    ("theirs/cache.safetensors", "mlx_lm_0.32.2/cache.safetensors"),
];

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    fs::copy(from, to).with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))?;
    Ok(())
}

/// Runs the test with everything in `work`: it makes what is not there, and compares if Python was there.
fn test(work: &Path) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--package", "mlxlm-cli", "--test", "roundtrip"]).env("MLXLM_ROUNDTRIP", work);
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the test `roundtrip` of mlxlm-cli failed\nhint: what it worked with is in `{}`", work.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_in_the_repository() {
        let golden = workspace::root().join("mlxlm-cli/tests/golden");
        for (_, to) in RECORDED {
            assert!(golden.join(to).is_file(), "{to}");
        }
    }
}
