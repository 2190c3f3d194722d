//! Whether what was packed runs where nothing of this repository is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{TAR, python};
use crate::process::{self, Tool};

const UNSHARE: Tool = Tool::named("unshare");
const LDD: Tool = Tool::named("ldd");

/// What both have to do: load a model and make text of it.
const GENERATE: [&str; 8] =
    ["generate", "--model", "demo", "--prompt", "What is 2 + 2?", "--verbose", "false", "--temp=0"];

/// Unpacks the archive into a folder that has nothing else but the C library and /proc, and runs it with that folder as the root.
pub(super) fn archive(archive: &Path, name: &str) -> Result<()> {
    let root = scratch("root")?;
    process::succeed(Command::new("tar").arg("-C").arg(&root).arg("-xzf").arg(archive), TAR)?;
    let tree = root.join(name);
    for library in system_libraries(&tree)? {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().unwrap_or(&root))?;
        fs::copy(&library, &to).with_context(|| format!("cannot copy `{}`", library.display()))?;
    }
    // The loader learns from /proc where the program lies, which is what `$ORIGIN` stands for.
    for folder in ["proc", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]);
    command.arg(format!("--root={}", root.display())).arg("--wd=/");
    command.arg(format!("/{name}/bin/mlxlm")).args(GENERATE).env_clear();
    let said = process::succeed(&mut command, UNSHARE)?;
    judge("the archive, in a bare root folder", &said)?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove `{}`", root.display()))
}

/// Installs the wheel into a fresh environment, and runs it there without the variables of this process.
pub(super) fn wheel(wheel: &Path) -> Result<()> {
    let place = scratch("venv")?;
    let (mut venv, tool) = python();
    process::succeed(venv.args(["-m", "venv"]).arg(&place), tool)?;
    let mut pip = Command::new(place.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]);
    process::succeed(pip.arg(wheel), tool)?;
    let mut command = Command::new(place.join("bin/mlxlm"));
    let said = process::succeed(command.args(GENERATE).env_clear().env("HOME", &place).current_dir("/"), tool)?;
    judge("the wheel, in a fresh environment", &said)?;
    fs::remove_dir_all(&place).with_context(|| format!("cannot remove `{}`", place.display()))
}

fn judge(what: &str, said: &str) -> Result<()> {
    if !said.contains('4') {
        bail!("{what}: 2 + 2 is said to be {said:?}");
    }
    eprintln!("dist: {what}: runs");
    Ok(())
}

/// An empty folder for a check.
fn scratch(name: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("mlxlm-dist-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
    Ok(path)
}

/// The libraries of the system that the binary and those beside it need, and the loader; all that lies beside it must come from there.
fn system_libraries(tree: &Path) -> Result<Vec<PathBuf>> {
    let listed = process::succeed(Command::new("ldd").arg(tree.join("bin/mlxlm")), LDD)?;
    let mut paths = Vec::new();
    for line in listed.lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let path = Path::new(path);
        let real = fs::canonicalize(path).with_context(|| format!("cannot find `{}`", path.display()))?;
        if real.starts_with(fs::canonicalize(tree)?) {
            continue;
        }
        if real.components().any(|part| part.as_os_str() == ".mlx") {
            bail!("the binary takes `{}` from the repository", path.display());
        }
        paths.push(path.to_owned());
    }
    Ok(paths)
}
