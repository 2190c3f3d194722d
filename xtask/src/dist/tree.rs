//! The folders `bin`, `lib` and `share` of an installed mlxlm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{elf, licences};
use crate::process::{self, Tool};
use crate::{setup, workspace};

/// Where the binary finds MLX's libraries, from where it is itself.
const RUNPATH: &str = "$ORIGIN/../lib/mlxlm/mlx/lib";

const MLXLM: Tool = Tool::named("mlxlm");

/// Fills `prefix`, which may hold other things, from a binary that was built here.
pub(super) fn make(binary: &Path, prefix: &Path) -> Result<()> {
    let share = prefix.join("share");
    let own = prefix.join("bin/mlxlm");
    // What a running program was made of stays with it: the new one appears by rename.
    let draft = prefix.join("bin/.mlxlm.tmp");
    if cfg!(target_os = "linux") {
        let mlx = setup::libraries()?;
        let mut program = fs::read(binary).with_context(|| format!("cannot read `{}`", binary.display()))?;
        elf::set_runpath(&mut program, &mlx.lib.to_string_lossy(), RUNPATH)?;
        write(&draft, &program)?;
        copy(&mlx.lib.join("libmlx.so"), &prefix.join("lib/mlxlm/mlx/lib/libmlx.so"))?;
        for folder in &mlx.needed {
            let name = folder.file_name().context("a folder of libraries has no name")?;
            for file in files(folder)? {
                let to = prefix.join("lib/mlxlm").join(name).join(file.file_name().unwrap_or_default());
                copy(&file, &to)?;
            }
        }
    } else {
        copy(binary, &draft)?;
    }
    executable(&draft)?;
    fs::rename(&draft, &own).with_context(|| format!("cannot write `{}`", own.display()))?;

    let ask = |args: &[&str]| process::succeed(Command::new(&own).args(args), MLXLM);
    let man = share.join("man/man1");
    ask(&["man", &man.to_string_lossy()])?;
    let scripts = [
        ("bash", "bash-completion/completions/mlxlm"),
        ("zsh", "zsh/site-functions/_mlxlm"),
        ("fish", "fish/vendor_completions.d/mlxlm.fish"),
    ];
    for (shell, file) in scripts {
        write(&share.join(file), ask(&["completions", shell])?.as_bytes())?;
    }
    let doc = share.join("doc/mlxlm");
    for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&workspace::root().join(file), &doc.join(file))?;
    }
    write(&doc.join("THIRD-PARTY.md"), licences::list()?.as_bytes())?;
    for licence in mlx_licences()? {
        let name = licence.file_name().unwrap_or_default().to_string_lossy().into_owned();
        copy(&licence, &doc.join(format!("MLX-{name}")))?;
    }
    Ok(())
}

/// The texts of licences that MLX's wheel brings.
fn mlx_licences() -> Result<Vec<PathBuf>> {
    if !cfg!(target_os = "linux") {
        return Ok(Vec::new());
    }
    let lib = setup::libraries()?.lib;
    let wheel = lib.ancestors().nth(2).unwrap_or(&lib);
    let entries = fs::read_dir(wheel).with_context(|| format!("cannot list `{}`", wheel.display()))?;
    let folders = entries.flatten().map(|entry| entry.path().join("licenses")).filter(|folder| folder.is_dir());
    folders.map(|folder| files(&folder)).collect::<Result<Vec<_>>>().map(|files| files.concat())
}

/// Makes a link, in place of one that is there.
pub(super) fn link(target: &str, path: &Path) -> Result<()> {
    if path.is_symlink() {
        fs::remove_file(path).with_context(|| format!("cannot replace `{}`", path.display()))?;
    }
    std::os::unix::fs::symlink(target, path).with_context(|| format!("cannot make the link `{}`", path.display()))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let mut files = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    if files.is_empty() {
        bail!("`{}` holds no libraries", folder.display());
    }
    Ok(files)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, bytes))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    // A library that a running program has mapped must not change under it.
    if to.exists() {
        fs::remove_file(to).with_context(|| format!("cannot replace `{}`", to.display()))?;
    }
    write(to, &bytes)
}

fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, permissions).with_context(|| format!("cannot change `{}`", path.display()))
}
