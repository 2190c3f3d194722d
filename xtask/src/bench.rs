//! `cargo xtask bench`: how fast this machine is with models of real shapes, beside its own limits and other programs.
//!
//! - [`shape`] knows the models' sizes, [`folder`] makes them from a seed in `target/bench-models`;
//! - [`plan`] runs `mlxlm benchmark` and the [`peers`] in turns, and [`measure`] keeps what they say;
//! - [`serve`] puts the server under load;
//! - [`decoding`] measures speculation, grammars and prompt caches against plain decoding;
//! - [`goals`] compares, [`report`] writes `BENCHMARKS.md`.

mod decoding;
mod folder;
mod goals;
pub(crate) mod machine;
mod measure;
mod peers;
mod plan;
mod report;
mod serve;
mod shape;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::measure::Journal;
use self::peers::Peers;
use self::plan::Bench;
use self::report::About;
use crate::process::{self, CARGO};
use crate::{run, setup, workspace};

/// Measure mlxlm and other programs on models of real shapes, and write BENCHMARKS.md
///
/// The first run makes the models (10 GB in target/bench-models). A full run takes about ten minutes; nothing else should run
/// meanwhile. With `--quick` or `--only` the tables are printed and BENCHMARKS.md is not changed.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Measure once, and only what the targets need
    #[arg(long)]
    quick: bool,

    /// Measure only these shapes, for example `llama-3.2-1b,qwen3-4b`; `decoding` is speculation, prompt caches and grammars
    #[arg(long, value_delimiter = ',', value_name = "SHAPE")]
    only: Vec<String>,

    /// Resume an interrupted run
    #[arg(long)]
    resume: bool,

    /// Python with mlx-lm
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,

    /// Python with llama-cpp-python and gguf; repeatable, one for each build
    #[arg(long, value_name = "PATH")]
    llama_python: Vec<PathBuf>,

    /// First install mlx-lm, and llama.cpp compiled for this CPU, below target/bench-peers (a quarter of an hour)
    #[arg(long)]
    install_peers: bool,

    /// Measure the server under load instead, with a small real model, and print the table
    #[arg(long, conflicts_with_all = ["only", "resume"])]
    server: bool,

    /// Measure this binary instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    for name in &args.only {
        if shape::Shape::find(name).is_none() && name != decoding::NAME {
            let known: Vec<&str> = shape::ALL.iter().map(|shape| shape.name).chain([decoding::NAME]).collect();
            bail!("`--only`: there is no shape `{name}`\nhint: there are {}", known.join(", "));
        }
    }
    setup::ensure()?;
    let root = workspace::root();
    let peers_home = root.join("target/bench-peers");
    if args.install_peers {
        peers::install(&peers_home)?;
    }
    let peers = Peers::find(args.python.as_deref(), &args.llama_python, &peers_home);
    peers.absent.iter().for_each(|absent| eprintln!("note: {absent}"));
    let models = plan::models(&root);
    fs::create_dir_all(&models).with_context(|| format!("cannot create `{}`", models.display()))?;
    let binary = binary(args, &models)?;
    if args.server {
        return serve::run(&binary, &peers.pythons());
    }
    let supported = plan::model_types(&process::succeed(Command::new(&binary).arg("models"), CARGO)?);

    let load = machine::load();
    if load.is_some_and(|load| load > 0.5) {
        eprintln!("note: this machine is busy, which makes all figures smaller");
    }
    let basis = basis(&binary, args.quick)?;
    let journal = Journal::open(&models.join("measured.jsonl"), &basis, args.resume)?;
    let (quick, only) = (args.quick, args.only.clone());
    let bench = Bench { journal: &journal, binary, models, peers, quick, only, supported };
    eprintln!("measuring; results are kept in target/bench-models, `--resume` continues an interrupted run");
    bench.run()?;

    let about = About {
        date: machine::today(),
        command: command(std::env::args().skip(1)),
        machine: machine::machine(),
        version: machine::version(),
        load,
    };
    let text = report::report(&bench, &about);
    if args.quick || !args.only.is_empty() {
        eprintln!("\n{text}");
    } else {
        let path = root.join("BENCHMARKS.md");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, report::with_kept_part(&text, &old))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        eprintln!("wrote BENCHMARKS.md, and kept what is below `{}`", report::KEPT_BELOW);
    }
    eprintln!("took {:.0} s", begin.elapsed().as_secs_f32());
    Ok(())
}

/// A copy of the binary, which nobody builds anew while it is measured.
fn binary(args: &Args, home: &Path) -> Result<PathBuf> {
    let built = match &args.binary {
        Some(binary) => binary.clone(),
        None => run::build(workspace::cargo())?,
    };
    let copy = home.join("mlxlm");
    // One that runs cannot be written to, but it can be replaced.
    drop(fs::remove_file(&copy));
    fs::copy(&built, &copy).with_context(|| format!("cannot copy `{}`", built.display()))?;
    Ok(copy)
}

/// What results depend on, and must be the same for `--resume`.
fn basis(binary: &Path, quick: bool) -> Result<String> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read `{}`", binary.display()))?;
    // A sum of the words, each turned by its place, is mark enough.
    let words = bytes.chunks_exact(8).map(|word| word.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)));
    let sum = words.fold(0_u64, |sum, word| sum.rotate_left(5) ^ word.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    Ok(format!("{sum:016x}, {}, quick: {quick}", machine::machine()))
}

/// The command as one would type it elsewhere: what follows is not the path of this machine.
fn command(words: impl Iterator<Item = String>) -> String {
    let mut shown = vec!["cargo".to_owned(), "xtask".to_owned()];
    let mut is_path = false;
    for word in words {
        let option = word.split('=').next().unwrap_or_default();
        let takes_path = ["--python", "--llama-python", "--binary"].contains(&option);
        shown.push(match (is_path, takes_path && word.contains('=')) {
            (true, _) => "PATH".to_owned(),
            (_, true) => format!("{option}=PATH"),
            _ => word.clone(),
        });
        is_path = !is_path && takes_path && !word.contains('=');
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_no_path_of_this_machine() {
        let words = ["bench", "--python", "/opt/a", "--llama-python=/opt/b", "--only", "qwen3-4b"];
        let shown = command(words.iter().map(ToString::to_string));
        assert_eq!(shown, "cargo xtask bench --python PATH --llama-python=PATH --only qwen3-4b");
    }

    #[test]
    fn another_binary_is_another_basis() {
        let folder = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = folder.path().join("binary");
            fs::write(&path, bytes).unwrap();
            basis(&path, false).unwrap()
        };
        assert_ne!(of(&[1; 64]), of(&[2; 64]));
        assert_eq!(of(&[1; 64]), of(&[1; 64]));
    }
}
