//! `cargo xtask golden`: folders that go to Python mlx-lm and back, and the record of what Python says of them.
//!
//! The test `roundtrip` of mlxlm-cli makes our folders and compares; `golden/roundtrip.py` runs Python on them and writes
//! its own. What is left in `mlxlm-cli/tests/golden` lets the same test run everywhere, without Python.
//!
//! The other golden records (`tests/golden`, `tests/adapters` and `tests/fixtures` of the crates) are logits, packed
//! weights, caches and tokens that the same versions of mlx-lm and MLX computed for drawn inputs; they do not change with
//! this repository, and each test says in its header what its record holds.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, PYTHON};
use crate::{setup, workspace};

/// The reference that the golden records are made with.
const MLX_LM: &str = "0.32.2";
const MLX: &str = "0.32.4";

/// Exchange folders with Python mlx-lm, compare, and record what it says for the tests
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// The Python that has mlx-lm
    #[arg(long, default_value = "python3")]
    python: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    check_python(&args.python)?;
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
    let said = process::succeed(Command::new(&args.python).arg(script).arg(&work), PYTHON)?;
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

/// The versions of mlx-lm and MLX, as Python says them, must be those of the records.
fn check_python(python: &str) -> Result<()> {
    let ask = "from importlib.metadata import version as v; print(v('mlx-lm'), v('mlx'))";
    let output = process::output(Command::new(python).args(["-c", ask]), PYTHON)?;
    let found = String::from_utf8_lossy(&output.stdout);
    match versions(output.status.success().then_some(&found)) {
        Ok(()) => Ok(()),
        Err(what) => bail!("`{python}` {what}\nhint: `{}`", install(python, cfg!(target_os = "macos"))),
    }
}

fn versions(found: Option<&str>) -> Result<(), String> {
    match found.map(|found| found.split_whitespace().collect::<Vec<_>>()).as_deref() {
        Some([MLX_LM, MLX]) => Ok(()),
        Some([mlx_lm, mlx]) => {
            Err(format!("has mlx-lm {mlx_lm} on MLX {mlx}, and the records are of {MLX_LM} on {MLX}"))
        }
        _ => Err("has no mlx-lm".to_owned()),
    }
}

fn install(python: &str, mac: bool) -> String {
    let mlx = if mac { "mlx" } else { "'mlx[cpu]" };
    let quote = if mac { "" } else { "'" };
    format!("{python} -m pip install mlx-lm=={MLX_LM} {mlx}=={MLX}{quote}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reference_is_refused() {
        assert_eq!(versions(Some("0.32.2 0.32.4\n")), Ok(()));
        assert_eq!(versions(None).unwrap_err(), "has no mlx-lm");
        assert_eq!(
            versions(Some("0.31.0 0.32.4\n")).unwrap_err(),
            "has mlx-lm 0.31.0 on MLX 0.32.4, and the records are of 0.32.2 on 0.32.4"
        );
        assert_eq!(versions(Some("nonsense")).unwrap_err(), "has no mlx-lm");
    }

    #[test]
    fn an_absent_mlx_lm_is_told_with_its_remedy() {
        assert_eq!(install("python3", false), "python3 -m pip install mlx-lm==0.32.2 'mlx[cpu]==0.32.4'");
        assert_eq!(install("python3", true), "python3 -m pip install mlx-lm==0.32.2 mlx==0.32.4");
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        fs::write(&python, "#!/bin/sh\nexit 1\n").unwrap();
        make_executable(&python);
        let error = check_python(&python.to_string_lossy()).unwrap_err().to_string();
        assert!(error.contains("has no mlx-lm\nhint: `"), "{error}");
    }

    fn make_executable(path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn what_is_recorded_is_in_the_repository() {
        let golden = workspace::root().join("mlxlm-cli/tests/golden");
        for (_, to) in RECORDED {
            assert!(golden.join(to).is_file(), "{to}");
        }
    }
}
