//! `cargo xtask run -- ARGS`: from a fresh clone to the release binary with one command.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::{process, setup, workspace};

/// Build `mlxlm` for release and run it (runs `setup` first if needed)
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Arguments for mlxlm
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    mlxlm: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut mlxlm = Command::new(build(workspace::cargo())?);
    mlxlm.args(&args.mlxlm);
    // Only comes back if it fails.
    let error = mlxlm.exec();
    Err(anyhow!("cannot run `{}`: {error}", process::shown(&mlxlm)))
}

/// Builds the binary and returns its path. Standard output stays free for what the binary prints.
pub(crate) fn build(mut cargo: Command) -> Result<PathBuf> {
    let root = cargo.get_current_dir().unwrap_or(Path::new("."));
    let is_first = !root.join("target/release/mlxlm").is_file();
    cargo.args(["build", "--release", "--package", "mlxlm-cli", "--bin", "mlxlm"]);
    cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    if is_first {
        eprintln!("building mlxlm for release; the first time takes some minutes");
    } else {
        cargo.arg("--quiet");
    }
    let output = cargo.spawn().and_then(std::process::Child::wait_with_output).context("cannot run cargo")?;
    if !output.status.success() {
        bail!("mlxlm does not build\nhint: `cargo xtask setup` repairs a missing MLX");
    }
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo names no binary `mlxlm`")
}

/// The path of the binary in cargo's messages, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
        let path = message["executable"].as_str()?;
        (message["target"]["name"] == "mlxlm").then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_the_one_cargo_names() {
        let messages = concat!(
            "not json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"mlxlm"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"mlxlm"},"executable":"/t/mlxlm"}"#,
            "\n",
        );
        assert_eq!(executable(messages), Some("/t/mlxlm".into()));
        assert_eq!(executable("{}"), None);
    }

    /// A workspace whose `mlxlm` has this source.
    fn workspace_of(main: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let manifest =
            "[package]\nname = \"mlxlm-cli\"\nedition = \"2024\"\n[[bin]]\nname = \"mlxlm\"\npath = \"main.rs\"\n";
        std::fs::write(root.path().join("Cargo.toml"), manifest).unwrap();
        std::fs::write(root.path().join("main.rs"), main).unwrap();
        root
    }

    fn cargo(root: &tempfile::TempDir) -> Command {
        let mut cargo = workspace::cargo_in(root.path());
        cargo.env_remove("CARGO_TARGET_DIR");
        cargo
    }

    #[test]
    fn what_is_built_runs() {
        let root = workspace_of("fn main() { println!(\"{}\", std::env::args().nth(1).unwrap()) }");
        for _again in 0..2 {
            let output = Command::new(build(cargo(&root)).unwrap()).arg("hello").output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "hello\n");
        }
    }

    #[test]
    fn what_does_not_build_is_an_error() {
        let root = workspace_of("fn main() { 1 }");
        assert!(build(cargo(&root)).unwrap_err().to_string().contains("does not build\nhint: "));
    }
}
