//! `cargo xtask setup`: MLX for Linux, so that plain `cargo build` works.
//!
//! `mlx-sys`'s build script knows macOS only. Cargo lets configuration replace the build script of a crate that
//! declares `links`, so setup makes what that script would have made and tells cargo where it is:
//!
//! 1. [`wheel`]: MLX itself, from the Python wheel of the same version;
//! 2. [`mlxc`]: the C layer, compiled from the sources in the `mlx-sys` package;
//! 3. [`bindings`]: the Rust declarations of that layer;
//! 4. [`config`]: `.cargo/mlx-native.toml`, which the committed `.cargo/config.toml` includes.
//!
//! Everything lies in `.mlx/<key>` with a key that names all inputs: a folder under another name is another
//! setup, and cargo rebuilds what depends on it. The folder is made under a temporary name and renamed.

pub(crate) mod bindings;
mod config;
mod mlxc;
mod wheel;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The MLX that the pinned `mlx-sys` binds; checked against its sources.
const MLX_VERSION: &str = "0.32.2";
/// Raise it when what setup produces changes.
const RECIPE: u32 = 1;

/// Get MLX and tell cargo where it is (Linux; on macOS there is nothing to do)
///
/// The environment variable MLX_DIR names an MLX of your own instead: a folder with `lib/libmlx.so` and `include/`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Take MLX's CUDA build (mlx-cuda-13); the nvidia-* wheels must be installed to run it
    #[arg(long)]
    cuda: bool,
}

/// Where MLX comes from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// A wheel, by the name of its package.
    Wheel(&'static str),
    /// `MLX_DIR`.
    Own(PathBuf),
}

const CPU: Source = Source::Wheel("mlx-cpu");
const CUDA: Source = Source::Wheel("mlx-cuda-13");

/// The folders of an MLX.
#[derive(Debug)]
struct Mlx {
    include: PathBuf,
    /// Holds `libmlx.so`.
    lib: PathBuf,
    /// Holds the libraries that `libmlx.so` needs and finds by itself; the linker has to be told.
    needed: Vec<PathBuf>,
}

/// Does the setup that the arguments and `MLX_DIR` ask for, unless it is there already.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("setup: nothing to do here; mlx-sys builds MLX itself on macOS");
        return Ok(());
    }
    let source = match (std::env::var_os("MLX_DIR"), args.cuda) {
        (Some(_), true) => bail!("`--cuda` and MLX_DIR exclude each other\nhint: unset MLX_DIR"),
        (Some(dir), false) => own(Path::new(&dir))?,
        (None, true) => CUDA,
        (None, false) => CPU,
    };
    make(&workspace::root(), &source)
}

/// Does a setup if there is none; one that was chosen by `cargo xtask setup` stays.
#[expect(dead_code)]
pub(crate) fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let root = workspace::root();
    let source = match std::env::var_os("MLX_DIR") {
        Some(dir) => own(Path::new(&dir))?,
        None if is_made(&root, &CUDA)? => CUDA,
        None => CPU,
    };
    if is_made(&root, &source)? { Ok(()) } else { make(&root, &source) }
}

fn own(dir: &Path) -> Result<Source> {
    let what = || format!("MLX_DIR is `{}`, which is no MLX", dir.display());
    let dir = dir.canonicalize().with_context(what)?;
    for part in ["lib/libmlx.so", "include/mlx/mlx.h"] {
        if !dir.join(part).is_file() {
            bail!("{}: it has no `{part}`\nhint: name the folder that holds `lib/libmlx.so` and `include/`", what());
        }
    }
    Ok(Source::Own(dir))
}

fn make(root: &Path, source: &Source) -> Result<()> {
    if is_made(root, source)? {
        eprintln!("setup: MLX is in place ({})", key(root, source)?);
        return Ok(());
    }
    let begin = Instant::now();
    let home = root.join(".mlx");
    let key = key(root, source)?;
    let done = home.join(&key);
    if !done.is_dir() {
        let draft = home.join(format!("{key}.{}.tmp", std::process::id()));
        std::fs::create_dir_all(&draft).with_context(|| format!("cannot create `{}`", draft.display()))?;
        let made = fill(root, source, &draft);
        if made.is_ok() && std::fs::rename(&draft, &done).is_err() && !done.is_dir() {
            bail!("cannot rename `{}`", draft.display());
        }
        // Gone already if all went well.
        let _ = std::fs::remove_dir_all(&draft);
        made?;
    }
    config::write(root, &folders(source, &done)?, &done)?;
    remove_others(&home, &key);
    eprintln!(
        "setup: done in {:.0} s; `cargo build`, `cargo test` and `cargo run` work now",
        begin.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Makes everything inside `draft`.
fn fill(root: &Path, source: &Source, draft: &Path) -> Result<()> {
    if let Source::Wheel(package) = source {
        eprintln!("setup: getting {package} {MLX_VERSION} with pip");
        wheel::get(package, MLX_VERSION, &draft.join("wheel"))?;
    }
    if *source == CUDA {
        eprintln!(
            "setup: the CUDA build has not been tried with mlxlm; to run it, install the nvidia-* wheels that `pip install mlx[cuda13]` lists"
        );
    }
    let mlx = folders(source, draft)?;
    let sources = mlxc::sources(root, MLX_VERSION)?;
    let out = draft.join("out");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
    eprintln!("setup: writing the bindings of mlx-c");
    bindings::generate(root, &sources, &out, draft)?;
    eprintln!("setup: compiling mlx-c (about half a minute)");
    mlxc::compile(root, &sources, &mlx.include, &out)?;
    mlxc::copy_headers(&sources, &draft.join("mlx-c"))
}

/// The folders of MLX when setup lives in `dir`.
fn folders(source: &Source, dir: &Path) -> Result<Mlx> {
    match source {
        Source::Wheel(_) => wheel::folders(&dir.join("wheel")),
        Source::Own(own) => Ok(Mlx { include: own.join("include"), lib: own.join("lib"), needed: Vec::new() }),
    }
}

fn is_made(root: &Path, source: &Source) -> Result<bool> {
    let done = root.join(".mlx").join(key(root, source)?);
    Ok(done.is_dir() && config::is_written(root, &folders(source, &done)?, &done))
}

/// The folder name that stands for all that the result depends on.
fn key(root: &Path, source: &Source) -> Result<String> {
    let sys = workspace::locked_version(root, "mlx-sys")?;
    let origin = match source {
        Source::Wheel(package) => format!("{package}-{MLX_VERSION}"),
        Source::Own(dir) => format!("own-{:016x}", fnv1a(dir.as_os_str().as_encoded_bytes())),
    };
    Ok(format!("{origin}-sys-{sys}-r{RECIPE}"))
}

/// FNV-1a, 64 bits: short names for long paths.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Removes earlier setups; what cannot be removed does no harm.
fn remove_others(home: &Path, key: &str) {
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name != key && !name.to_string_lossy().ends_with(".tmp") {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
