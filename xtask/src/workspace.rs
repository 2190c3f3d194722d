//! Where the repository is, and what its lock file says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it when it runs us; the built-in value serves whoever starts the binary by hand.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).parent().expect("xtask is a folder in the workspace").to_path_buf()
}

/// The cargo that runs us, at the workspace's root.
pub(crate) fn cargo() -> Command {
    cargo_in(&root())
}

/// The cargo that runs us, in `dir`.
pub(crate) fn cargo_in(dir: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir);
    cargo
}

/// The version of `package` in `Cargo.lock` at `root`.
pub(crate) fn locked_version(root: &Path, package: &str) -> Result<String> {
    let path = root.join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    version_in_lock(&lock, package).with_context(|| format!("`{}` names no `{package}`", path.display()))
}

fn version_in_lock(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines.next()?;
    Some(lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_read_by_whole_names() {
        let lock = "[[package]]\nname = \"mlx-sys-x\"\nversion = \"9.0.0\"\n\n[[package]]\nname = \"mlx-sys\"\nversion = \"0.7.0\"\n";
        assert_eq!(version_in_lock(lock, "mlx-sys").as_deref(), Some("0.7.0"));
        assert_eq!(version_in_lock(lock, "mlx"), None);
    }

    #[test]
    fn this_workspace_pins_mlx_sys() {
        assert!(root().join("Cargo.toml").is_file());
        assert!(locked_version(&root(), "mlx-sys").is_ok());
    }
}
