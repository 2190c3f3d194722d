//! MLX for Linux, so that plain `cargo build` works (feature `setup`): what `cargo xtask setup` does in mlxlm's repository, and the program
//! `mlxlm-setup` in projects of others.
//!
//! `mlx-sys`'s build script knows macOS only. Cargo lets configuration replace the build script of a crate that
//! declares `links`, so setup makes what that script would have made and tells cargo where it is:
//!
//! 1. [`wheel`]: MLX itself, from the Python wheel of the same version, or from a folder of your own;
//! 2. `mlxc`: the C layer, compiled from the sources in the `mlx-sys` package;
//! 3. [`bindings`]: the Rust declarations of that layer;
//! 4. `config`: `.cargo/mlx-native.toml`, which `.cargo/config.toml` includes.
//!
//! Everything lies in `.mlx/<key>` with a key that names all inputs: a folder under another name is another
//! setup, and cargo rebuilds what depends on it. The folder is made under a temporary name and renamed.
#![expect(clippy::print_stderr, reason = "it runs for a minute in a terminal, and says what it does")]

pub mod bindings;
mod config;
mod mlxc;
mod source;
pub mod tool;
pub mod wheel;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::source::{CPU, CUDA, Source, key_suffix};
use self::tool::{AR, CARGO, CXX};

/// The MLX that the pinned `mlx-sys` binds; checked against its sources.
pub const MLX_VERSION: &str = "0.32.2";
/// Raise it when what setup produces changes.
const RECIPE: u32 = 1;
/// Cargo reads `include` in its configuration from 1.94 on.
const CARGO_MINOR: u32 = 94;

/// Get MLX and tell cargo where it is (Linux; on macOS there is nothing to do)
///
/// The environment variable `MLX_DIR` names an MLX of your own instead: a folder with `lib/libmlx.so` and `include/`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Take MLX's CUDA build, mlx-cuda-13 (untried; to run, it needs NVIDIA's wheels: setup prints how to get them)
    #[arg(long)]
    cuda: bool,
}

/// Does the setup that the arguments and `MLX_DIR` ask for in the project at `root`, unless it is there already.
///
/// # Errors
/// What is missing on the machine, with the command that installs it; a download or a compiler that fails.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    if !cfg!(target_os = "linux") {
        eprintln!("setup: nothing to do here; mlx-sys builds MLX itself on macOS");
        return Ok(());
    }
    let source = match (std::env::var_os("MLX_DIR"), args.cuda) {
        (Some(_), true) => bail!("`--cuda` and MLX_DIR exclude each other\nhint: unset MLX_DIR"),
        (Some(dir), false) => Source::own(Path::new(&dir))?,
        (None, true) => CUDA,
        (None, false) => CPU,
    };
    make(root, &source)
}

/// Does a setup if there is none. One that was asked for by [`run`] stays, wherever its MLX is from.
///
/// # Errors
/// As of [`run`].
pub fn ensure(root: &Path) -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    match std::env::var_os("MLX_DIR") {
        Some(dir) => {
            let source = Source::own(Path::new(&dir))?;
            if is_made(root, &source)? { Ok(()) } else { make(root, &source) }
        }
        None if is_any_made(root)? => Ok(()),
        None => make(root, &CPU),
    }
}

/// Lets the `.cargo/config.toml` of the project at `root` include what [`run`] writes, which ours does already.
///
/// # Errors
/// A configuration that includes other files: it says which line to add.
pub fn include(root: &Path) -> Result<()> {
    config::include(root)
}

/// The shared libraries of the setup that cargo is pointed at.
#[derive(Debug)]
pub struct Libraries {
    /// The folder of `libmlx.so`.
    pub lib: PathBuf,
    /// Folders of what it needs.
    pub needed: Vec<PathBuf>,
}

/// Where programs that are built in the project at `root` find MLX.
///
/// # Errors
/// No setup.
pub fn libraries(root: &Path) -> Result<Libraries> {
    let (lib, needed) =
        config::libraries(root).context("cargo is pointed at no MLX\nhint: `cargo xtask setup` gets it")?;
    Ok(Libraries { lib, needed })
}

fn make(root: &Path, source: &Source) -> Result<()> {
    let key = source.key(root)?;
    if is_made(root, source)? {
        eprintln!("setup: MLX is in place ({key})");
        return Ok(());
    }
    let begin = Instant::now();
    let home = root.join(".mlx");
    let done = home.join(&key);
    if !done.is_dir() {
        check_tools(root, source)?;
        let draft = home.join(format!("{key}.{}.tmp", std::process::id()));
        std::fs::create_dir_all(&draft).with_context(|| format!("cannot create `{}`", draft.display()))?;
        let made = fill(root, source, &draft).and_then(|()| publish(&draft, &done));
        if made.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_dir_all(&draft);
            let _ = std::fs::remove_dir(&home);
        }
        made?;
    }
    config::write(root, source, &source.folders(&done)?, &done)?;
    remove_others(&home, &key);
    eprintln!(
        "setup: done in {:.0} s; `cargo build`, `cargo test` and `cargo run` work now",
        begin.elapsed().as_secs_f32()
    );
    if *source == CUDA {
        eprintln!(
            "setup: this CUDA build is UNTRIED; it finds NVIDIA's libraries after\n{}",
            wheel::nvidia_command(&done.join("wheel"))
        );
    }
    Ok(())
}

/// Names what is missing before anything is downloaded.
fn check_tools(root: &Path, source: &Source) -> Result<()> {
    let arch = std::env::consts::ARCH;
    if !cfg!(target_env = "gnu") || !["x86_64", "aarch64"].contains(&arch) {
        bail!("mlxlm runs on Linux with glibc, on x86_64 and aarch64; this is {arch} or another libc");
    }
    tool::output(Command::new("g++").arg("--version"), CXX)?;
    tool::output(Command::new("ar").arg("--version"), AR)?;
    if matches!(source, Source::Wheel(_)) || std::env::var_os("LIBCLANG_PATH").is_none() {
        wheel::check_pip()?;
    }
    let version = tool::succeed(tool::cargo(root).arg("--version"), CARGO)?;
    if minor(&version).is_some_and(|minor| minor < CARGO_MINOR) {
        bail!(
            "{} does not read included configuration\nhint: `rustup update`, or any cargo from 1.{CARGO_MINOR} on",
            version.trim()
        );
    }
    Ok(())
}

/// The 95 of `cargo 1.95.0 (…)`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("cargo 1.")?.split('.').next()?.parse().ok()
}

/// Gives the finished draft its name. Another setup that was faster is as good.
fn publish(draft: &Path, done: &Path) -> Result<()> {
    match std::fs::rename(draft, done) {
        Err(_) if done.is_dir() => Ok(std::fs::remove_dir_all(draft)?),
        renamed => renamed.with_context(|| format!("cannot rename `{}`", draft.display())),
    }
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
    let mlx = source.folders(draft)?;
    let version = mlxc::version(&mlx.include)?;
    if version != MLX_VERSION {
        bail!("MLX {version} in `{}`, where mlx-sys binds {MLX_VERSION}", mlx.include.display());
    }
    let sources = mlxc::sources(root, MLX_VERSION)?;
    let out = draft.join("out");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create `{}`", out.display()))?;
    eprintln!("setup: writing the bindings of mlx-c");
    bindings::generate(&sources, &out, draft)?;
    eprintln!("setup: compiling mlx-c (about half a minute)");
    mlxc::compile(&sources, &mlx.include, &out)?;
    mlxc::copy_headers(&sources, &draft.join("mlx-c"))
}

fn is_made(root: &Path, source: &Source) -> Result<bool> {
    let done = root.join(".mlx").join(source.key(root)?);
    Ok(done.is_dir() && config::is_written(root, source, &source.folders(&done)?, &done))
}

/// Whether cargo is pointed at a setup of this recipe and this `mlx-sys`, of whatever source.
fn is_any_made(root: &Path) -> Result<bool> {
    let suffix = key_suffix(root)?;
    Ok(config::setup_dir(root)
        .is_some_and(|dir| dir.starts_with(root) && dir.is_dir() && dir.to_string_lossy().ends_with(&suffix)))
}

/// Removes earlier setups, and drafts whose process was killed; what cannot be removed does no harm.
fn remove_others(home: &Path, key: &str) {
    for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != key && !is_live_draft(&name) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether `name` is that of a draft, `<key>.<process>.tmp`, whose process still runs.
fn is_live_draft(name: &str) -> bool {
    let process = name.strip_suffix(".tmp").and_then(|name| name.rsplit_once('.'));
    process.is_some_and(|(_, id)| Path::new("/proc").join(id).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_counts_until_its_inputs_change() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let lock =
            |sys: &str| std::fs::write(root.join("Cargo.lock"), format!("name = \"mlx-sys\"\nversion = \"{sys}\"\n"));
        lock("0.7.0").unwrap();
        std::fs::create_dir_all(root.join(".cargo")).unwrap();
        assert!(!is_made(root, &CPU).unwrap() && !is_any_made(root).unwrap());

        let done = root.join(".mlx").join(CPU.key(root).unwrap());
        std::fs::create_dir_all(done.join("wheel/mlx_cpu.libs")).unwrap();
        assert!(!is_made(root, &CPU).unwrap(), "cargo does not know of it");
        config::write(root, &CPU, &CPU.folders(&done).unwrap(), &done).unwrap();
        assert!(is_made(root, &CPU).unwrap() && is_any_made(root).unwrap());
        assert!(!is_made(root, &CUDA).unwrap());

        lock("0.7.1").unwrap();
        assert!(!is_made(root, &CPU).unwrap() && !is_any_made(root).unwrap());
    }

    #[test]
    fn only_what_is_done_with_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let live = format!("key.{}.tmp", std::process::id());
        for name in ["key", "old-key", "key.0.tmp", &live] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        remove_others(home.path(), "key");
        let mut left: Vec<_> =
            std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["key", &live]);
    }

    #[test]
    fn a_draft_becomes_the_setup_unless_there_is_one() {
        let home = tempfile::tempdir().unwrap();
        let (draft, done) = (home.path().join("draft"), home.path().join("done"));
        for text in ["first", "second"] {
            std::fs::create_dir(&draft).unwrap();
            std::fs::write(draft.join("file"), text).unwrap();
            publish(&draft, &done).unwrap();
            assert_eq!(std::fs::read_to_string(done.join("file")).unwrap(), "first");
            assert!(!draft.exists());
        }
    }

    #[test]
    fn cargo_tells_its_version() {
        assert_eq!(minor("cargo 1.95.0 (f2d3ce0bd 2026-03-21)\n"), Some(95));
        assert_eq!(minor("something else"), None);
    }
}
