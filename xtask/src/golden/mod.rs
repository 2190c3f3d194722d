//! `cargo xtask golden`: what Python mlx-lm computes, recorded, and held against what mlxlm computes.
//!
//! The golden records (`tests/golden`, `tests/adapters` and `tests/fixtures` of the crates) are logits, packed weights, caches, tokens
//! and folders that the same versions of mlx-lm and MLX computed for drawn inputs; they do not change with this repository, and
//! each test says in its header what its record holds.

mod check;
mod exchange;
mod record;

use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{self, PYTHON};

/// The reference that the golden records are made with.
const MLX_LM: &str = "0.32.2";
const MLX: &str = "0.32.4";

/// Record results of Python mlx-lm, and compare mlxlm with them
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Golden,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Golden {
    Check(check::Args),
    Exchange(exchange::Args),
    Record(record::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Golden::Check(args) => check::run(args),
        Golden::Exchange(args) => exchange::run(args),
        Golden::Record(args) => record::run(args),
    }
}

/// Which Python runs the reference.
#[derive(clap::Args, Clone, Debug)]
struct Python {
    /// Python with mlx-lm
    #[arg(long, default_value = "python3")]
    python: String,
}

impl Python {
    fn command(&self) -> Command {
        Command::new(&self.python)
    }

    /// The versions of mlx-lm and MLX, as Python says them, must be those of the records.
    fn check(&self) -> Result<()> {
        let ask = "from importlib.metadata import version as v; print(v('mlx-lm'), v('mlx'))";
        let output = process::output(self.command().args(["-c", ask]), PYTHON)?;
        let found = String::from_utf8_lossy(&output.stdout);
        match versions(output.status.success().then_some(&found)) {
            Ok(()) => Ok(()),
            Err(what) => {
                let python = &self.python;
                bail!("`{python}` {what}\nhint: `{}`", install(python, cfg!(target_os = "macos")))
            }
        }
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
    use std::fs;
    use std::path::Path;

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
    fn an_absent_mlx_lm_is_reported_with_its_remedy() {
        assert_eq!(install("python3", false), "python3 -m pip install mlx-lm==0.32.2 'mlx[cpu]==0.32.4'");
        assert_eq!(install("python3", true), "python3 -m pip install mlx-lm==0.32.2 mlx==0.32.4");
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        fs::write(&python, "#!/bin/sh\nexit 1\n").unwrap();
        make_executable(&python);
        let error = Python { python: python.to_string_lossy().into_owned() }.check().unwrap_err().to_string();
        assert!(error.contains("has no mlx-lm\nhint: `"), "{error}");
    }

    fn make_executable(path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
