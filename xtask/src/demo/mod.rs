//! `cargo xtask demo-model`: the two small models that live in the repository, from nothing but a seed.
//!
//! The corpus comes from grammars and tables in this folder, the tokenizer is trained on it, `mlxlm-train` trains the models
//! and `mlxlm convert` quantizes them. Unusual: only a build with the feature `demo` can do this, because `setup` must not
//! wait for the `tokenizers` crate to compile; one without calls one with.

#[cfg(any(test, feature = "demo"))]
mod chat;
#[cfg(any(test, feature = "demo"))]
mod copying;
#[cfg(any(test, feature = "demo"))]
mod corpus;
#[cfg(any(test, feature = "demo"))]
mod facts;
#[cfg(any(test, feature = "demo"))]
mod folder;
#[cfg(any(test, feature = "demo"))]
mod knowledge;
#[cfg(any(test, feature = "demo"))]
mod objects;
#[cfg(any(test, feature = "demo"))]
mod pipeline;
#[cfg(any(test, feature = "demo"))]
mod questions;
#[cfg(any(test, feature = "demo"))]
mod rng;
#[cfg(any(test, feature = "demo"))]
mod stories;
#[cfg(any(test, feature = "demo"))]
mod tokenizer;
#[cfg(any(test, feature = "demo"))]
mod tools;
#[cfg(any(test, feature = "demo"))]
mod words;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Make the demo models: generate their corpus, train, quantize and install them
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Random seed of corpus and training
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Training steps of each model [default: those of the models in the repository]
    #[arg(long)]
    steps: Option<usize>,

    /// Only write corpus, tokenizer and configurations, to target/demo
    #[arg(long)]
    corpus_only: bool,
}

#[cfg(any(test, feature = "demo"))]
pub(crate) fn run(args: &Args) -> Result<()> {
    pipeline::run(args)
}

#[cfg(not(any(test, feature = "demo")))]
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut cargo = crate::workspace::cargo();
    cargo.args(["run", "--release", "--package", "xtask", "--features", "demo", "--", "demo-model"]);
    cargo.args(["--seed", &args.seed.to_string()]);
    cargo.args(args.steps.map(|steps| format!("--steps={steps}")));
    cargo.args(args.corpus_only.then_some("--corpus-only"));
    pass(&mut cargo)
}

/// Runs a program whose output goes where ours goes.
fn pass(command: &mut Command) -> Result<()> {
    let shown = process::shown(command);
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}
