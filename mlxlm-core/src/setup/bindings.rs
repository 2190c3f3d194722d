//! The Rust declarations of mlx-c, as `mlx-sys`'s build script would have written them.
//!
//! Unusual: bindgen looks libclang up by an environment variable, and it panics where there is none; therefore
//! it runs in a child, the hidden command `bindings` of the program that runs. libclang is the one that `LIBCLANG_PATH` names,
//! or comes as a wheel, which lacks the compiler's own headers: GCC's serve.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::tool::{self, CXX, LIBCLANG};
use super::wheel;

/// The wheel that setup takes: the newest there is for x86-64 and aarch64.
const LIBCLANG_VERSION: &str = "18.1.1";

/// What the child is given
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The mlx-c folder
    sources: PathBuf,
    /// A folder of headers that go before all others
    shadows: PathBuf,
    /// The file to write
    out: PathBuf,
}

/// Writes `bindings.rs` into `out`; `draft` takes libclang while it is needed.
pub(super) fn generate(sources: &Path, out: &Path, draft: &Path) -> Result<()> {
    let scratch = draft.join("clang");
    let shadows = scratch.join("shadows");
    std::fs::create_dir_all(&shadows).with_context(|| format!("cannot create `{}`", shadows.display()))?;
    // GCC's versions of these mean nothing to clang, and mlx-c needs only types that clang has built in.
    for header in ["arm_fp16.h", "arm_bf16.h"] {
        std::fs::write(shadows.join(header), "").with_context(|| format!("cannot write `{header}`"))?;
    }
    let mut child = Command::new(std::env::current_exe().context("cannot find the program that runs")?);
    child.arg("bindings").arg(sources).arg(&shadows).arg(out.join("bindings.rs"));
    if std::env::var_os("LIBCLANG_PATH").is_none() {
        let wheel = scratch.join("wheel");
        wheel::get("libclang", LIBCLANG_VERSION, &wheel).map_err(|error| anyhow!("{error}\n{}", LIBCLANG.missing()))?;
        child.env("LIBCLANG_PATH", wheel.join(format!("libclang-{LIBCLANG_VERSION}.data/platlib/clang/native")));
    }
    tool::succeed(&mut child, LIBCLANG)?;
    if cfg!(target_arch = "x86_64") {
        append(&out.join("bindings.rs"), include_str!("native/bindings_x86_64.rs.in"))?;
    }
    std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove `{}`", scratch.display()))
}

fn append(to: &Path, text: &str) -> Result<()> {
    let there = std::fs::read_to_string(to).with_context(|| format!("cannot read `{}`", to.display()))?;
    std::fs::write(to, there + text).with_context(|| format!("cannot write `{}`", to.display()))
}

/// The child's part: needs `LIBCLANG_PATH`, or a libclang where the system keeps it.
///
/// # Errors
/// No libclang, or headers that it cannot read.
pub fn run(args: &Args) -> Result<()> {
    let headers = args.sources.join("mlx/c");
    let mut names: Vec<_> = std::fs::read_dir(&headers)
        .with_context(|| format!("cannot read `{}`", headers.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    names.sort();
    let builtin = tool::succeed(Command::new("g++").arg("-print-file-name=include"), CXX)?;
    let mut builder = bindgen::Builder::default()
        .rust_target("1.73.0".parse().map_err(|error| anyhow!("{error}"))?)
        .clang_args(["-I", &args.shadows.to_string_lossy(), "-I", &args.sources.to_string_lossy()])
        .clang_args(["-I", builtin.trim()])
        .blocklist_function("malloc")
        .blocklist_function("realloc");
    for name in &names {
        builder = builder.header(name.to_string_lossy());
    }
    let bindings = builder.generate().map_err(|error| anyhow!("bindgen: {error}"))?;
    bindings.write_to_file(&args.out).with_context(|| format!("cannot write `{}`", args.out.display()))
}
