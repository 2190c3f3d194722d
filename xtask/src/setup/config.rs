//! `.cargo/mlx-native.toml`: what cargo is told about MLX.
//!
//! The first table replaces `mlx-sys`'s build script. The second lets the programs that cargo builds, tests and
//! documentation examples included, find `libmlx.so` when they run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Mlx;

/// Writes the configuration for the setup in `dir`.
pub(super) fn write(root: &Path, mlx: &Mlx, dir: &Path) -> Result<()> {
    let path = path(root);
    let draft = path.with_extension("toml.tmp");
    std::fs::write(&draft, text(mlx, dir))
        .and_then(|()| std::fs::rename(&draft, &path))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Whether the configuration is what [`write`] would write.
pub(super) fn is_written(root: &Path, mlx: &Mlx, dir: &Path) -> bool {
    std::fs::read_to_string(path(root)).is_ok_and(|found| found == text(mlx, dir))
}

fn path(root: &Path) -> PathBuf {
    root.join(".cargo/mlx-native.toml")
}

fn text(mlx: &Mlx, dir: &Path) -> String {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = dir.join("out");
    let search = [native(&out), native(&mlx.lib)];
    let mut flags = vec![link_arg("-rpath", &mlx.lib)];
    flags.extend(mlx.needed.iter().map(|needed| link_arg("-rpath-link", needed)));
    let flags: Vec<_> = flags.into_iter().flat_map(|flag| ["-C".to_owned(), flag]).collect();
    let include = format!("{}:{}", mlx.include.display(), dir.join("mlx-c").display());
    format!(
        "# Written by `cargo xtask setup`; not committed.\n\
         [target.{triple}.mlx]\n\
         rustc-link-search = {search:?}\n\
         rustc-link-lib = [\"static=mlxc\", \"dylib=mlx\", \"dylib=stdc++\"]\n\
         rustc-env = {{ OUT_DIR = {out:?} }}\n\
         include = {include:?}\n\
         \n\
         [target.{triple}]\n\
         rustflags = {flags:?}\n\
         rustdocflags = {flags:?}\n"
    )
}

fn native(dir: &Path) -> String {
    format!("native={}", dir.display())
}

fn link_arg(option: &str, dir: &Path) -> String {
    format!("link-arg=-Wl,{option},{}", dir.display())
}
