//! A wheel for PyPI: the same tree, so that `pip install` and `uvx` get it. The binary is a script of the wheel, and the libraries are
//! data, which both land below the prefix of the environment.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{elf, python};
use crate::process;

/// Writes the zip file; Python has a module for that, and is here for setup anyway.
const WRITER: &str = include_str!("wheel.py");

/// Makes the wheel of a tree in `dist`; its path.
pub(super) fn make(tree: &Path, dist: &Path) -> Result<PathBuf> {
    let platform = platform(tree)?;
    let version = env!("CARGO_PKG_VERSION");
    let wheel = dist.join(format!("mlxlm-{version}-py3-none-{platform}.whl"));
    let (mut python, tool) = python();
    python.args(["-c", WRITER]).arg(tree).arg(&wheel).args([version, &platform]);
    process::succeed(&mut python, tool)?;
    Ok(wheel)
}

/// The platform by its name in wheels: on Linux that of the newest glibc which anything of the tree needs.
fn platform(tree: &Path) -> Result<String> {
    let arch = std::env::consts::ARCH;
    if cfg!(target_os = "macos") {
        return Ok("macosx_14_0_arm64".to_owned());
    }
    let mut newest = 0;
    let mut open = vec![tree.join("bin"), tree.join("lib")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).with_context(|| format!("cannot list `{}`", path.display()))?;
            open.extend(entries.flatten().map(|entry| entry.path()));
        } else {
            let program = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            newest = newest.max(elf::glibc(&program));
        }
    }
    Ok(format!("manylinux_2_{newest}_{arch}"))
}
