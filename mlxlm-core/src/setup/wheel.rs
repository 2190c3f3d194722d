//! MLX, and what else comes, from a Python wheel. A wheel is a zip archive; nothing of it is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::source::Mlx;
use super::tool::{self, PIP, PYTHON};

/// An error that says how to get Python or its pip, if they are missing.
pub(super) fn check_pip() -> Result<()> {
    let pip = tool::output(python().args(["-m", "pip", "--version"]), PYTHON)?;
    if pip.status.success() { Ok(()) } else { Err(PIP.missing()) }
}

/// Downloads the wheel of `package` and unpacks it into `into`.
///
/// # Errors
/// No pip, no network, or no such wheel.
pub fn get(package: &str, version: &str, into: &Path) -> Result<()> {
    let download = into.with_extension("download");
    // `pip download` installs nothing, so it works where a distribution forbids `pip install`.
    let mut pip = python();
    pip.args(["-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--only-binary=:all:"]);
    pip.arg("--dest").arg(&download).arg(format!("{package}=={version}"));
    tool::succeed(&mut pip, PYTHON).map_err(|error| {
        anyhow!("{error}\nhint: {package} {version} needs a network, glibc 2.35 or newer, and a recent pip (`python3 -m pip --version`)")
    })?;
    let wheel = std::fs::read_dir(&download)
        .and_then(|mut entries| entries.next().transpose())
        .ok()
        .flatten()
        .with_context(|| format!("pip left nothing in `{}`", download.display()))?
        .path();
    tool::succeed(python().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(into), PYTHON)?;
    std::fs::remove_dir_all(&download).with_context(|| format!("cannot remove `{}`", download.display()))
}

/// The folders inside an unpacked wheel.
pub(super) fn folders(wheel: &Path) -> Result<Mlx> {
    Ok(Mlx { include: wheel.join("mlx/include"), lib: wheel.join("mlx/lib"), needed: bundled(wheel)? })
}

/// The folders of libraries that the wheels unpacked in `dir` bring along.
pub(super) fn bundled(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let mut bundled: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "libs"))
        .collect();
    bundled.sort();
    Ok(bundled)
}

/// What puts NVIDIA's libraries where the `libmlx.so` in `wheel` looks for them.
pub(super) fn nvidia_command(wheel: &Path) -> String {
    format!(
        "    python3 -m pip install --target {} 'nvidia-cublas==13.*' 'nvidia-cudnn-cu13==9.*' 'nvidia-cufft==12.*' \\\n        \
         'nvidia-cuda-nvrtc==13.*' 'nvidia-cuda-runtime==13.*' nvidia-nccl-cu13",
        wheel.display()
    )
}

fn python() -> Command {
    Command::new("python3")
}
