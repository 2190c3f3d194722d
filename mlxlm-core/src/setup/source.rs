//! Where MLX comes from, where it lies, and how that is named.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{MLX_VERSION, RECIPE, tool, wheel};

/// Where MLX comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// A wheel, by the name of its package.
    Wheel(&'static str),
    /// The folder that `MLX_DIR` names.
    Own(PathBuf),
}

pub(super) const CPU: Source = Source::Wheel("mlx-cpu");
pub(super) const CUDA: Source = Source::Wheel("mlx-cuda-13");

/// The folders of an MLX.
#[derive(Debug)]
pub(super) struct Mlx {
    pub(super) include: PathBuf,
    /// Holds `libmlx.so`.
    pub(super) lib: PathBuf,
    /// Hold the libraries that `libmlx.so` needs and finds by itself; the linker has to be pointed at them.
    pub(super) needed: Vec<PathBuf>,
}

impl Source {
    /// The source that `MLX_DIR` names, if `dir` holds an MLX.
    pub(super) fn own(dir: &Path) -> Result<Self> {
        let what = || format!("MLX_DIR is `{}`, which is no MLX", dir.display());
        let dir = dir.canonicalize().with_context(what)?;
        for part in ["lib/libmlx.so", "include/mlx/mlx.h"] {
            if !dir.join(part).is_file() {
                bail!(
                    "{}: it has no `{part}`\nhint: name the folder that holds `lib/libmlx.so` and `include/`",
                    what()
                );
            }
        }
        Ok(Self::Own(dir))
    }

    /// The folders of MLX when setup lives in `dir`.
    pub(super) fn folders(&self, dir: &Path) -> Result<Mlx> {
        match self {
            Self::Wheel(_) => wheel::folders(&dir.join("wheel")),
            // The libraries of an MLX that pip installed lie beside it.
            Self::Own(own) => Ok(Mlx {
                include: own.join("include"),
                lib: own.join("lib"),
                needed: own.parent().map_or(Ok(Vec::new()), wheel::bundled)?,
            }),
        }
    }

    /// The folder name that stands for all that a setup depends on.
    pub(super) fn key(&self, root: &Path) -> Result<String> {
        let origin = match self {
            Self::Wheel(package) => (*package).to_owned(),
            Self::Own(dir) => format!("own-{:016x}", fnv1a(dir.as_os_str().as_encoded_bytes())),
        };
        Ok(origin + &key_suffix(root)?)
    }
}

/// The part of a key that is the same for every source.
pub(super) fn key_suffix(root: &Path) -> Result<String> {
    let sys = tool::locked_version(root, "mlx-sys")?;
    Ok(format!("-{MLX_VERSION}-sys-{sys}-r{RECIPE}"))
}

/// FNV-1a, 64 bits: short names for long paths.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_all_inputs() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("Cargo.lock"), "name = \"mlx-sys\"\nversion = \"9.8.7\"\n").unwrap();
        assert_eq!(CPU.key(root.path()).unwrap(), format!("mlx-cpu-{MLX_VERSION}-sys-9.8.7-r{RECIPE}"));
        let keys = ["/a", "/b"].map(|dir| Source::Own(dir.into()).key(root.path()).unwrap());
        assert_ne!(keys[0], keys[1]);
        assert!(keys[0].starts_with("own-"), "{}", keys[0]);
    }

    #[test]
    fn own_mlx_must_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Source::own(dir.path()).unwrap_err().to_string();
        assert!(error.contains("`lib/libmlx.so`") && error.contains("hint: "), "{error}");
        assert!(Source::own(&dir.path().join("absent")).is_err());
        for file in ["lib/libmlx.so", "include/mlx/mlx.h"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(Source::own(dir.path()).unwrap(), Source::Own(dir.path().canonicalize().unwrap()));
    }
}
