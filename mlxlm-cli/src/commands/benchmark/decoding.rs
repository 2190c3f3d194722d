//! `--decoding PART`: what stands on top of plain decoding, each against doing without it, in turns within one process.
//!
//! For `cargo xtask bench`, whose section "decoding" is made of the JSON object that each part prints.

mod engine;
mod grammar;
mod hybrid;
mod snapkv;
mod speculation;
mod store;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use mlxlm_cache::Caches;
use mlxlm_core::device;
use mlxlm_core::text::TokenizerOptions;
use mlxlm_models::{CausalLm, Loaded};
use mlxlm_sample::GenerateOptions;
use mlxlm_sample::engine::Decoding;
use serde_json::Value;

use super::trial::greedy;
use crate::args::{BenchmarkArgs, DEFAULT_MODEL};
use crate::failure::{Failure, Result};
use crate::model;
use crate::output::say;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Proposals from the text, on texts to repeat, to edit and to make up. Needs a model that can, with its tokenizer.
    Speculation,
    /// Proposals and states in bf16, for a model with recurrent states.
    Hybrid,
    /// Decoding after most of a long context was dropped.
    Snapkv,
    /// Prompts that are restored from disk, against reading them. `--decoding-path` is a folder to write to.
    Store,
    /// Prompts that wait are read first, or in turns with decoding.
    Prefill,
    /// A sequence joins others, and leaves them.
    Joining,
    /// Snapshots of caches.
    Snapshots,
    /// Answers that a JSON schema holds. `--decoding-path` is a GGUF file with the vocabulary.
    Grammar,
}

/// Measures a part and prints what it found.
pub(super) fn run(part: Part, args: &BenchmarkArgs) -> Result {
    let path = || {
        let path = args.decoding_path.as_deref();
        path.ok_or_else(|| Failure::usage("this part needs `--decoding-path`"))
    };
    let found = match part {
        Part::Speculation => speculation::measure(&loaded(args)?)?,
        Part::Hybrid => hybrid::measure(&*super::load(args)?)?,
        Part::Snapkv => snapkv::measure(&*super::load(args)?)?,
        Part::Store => store::measure(&*super::load(args)?, path()?)?,
        Part::Prefill => engine::prefill_first(&*super::load(args)?)?,
        Part::Joining => engine::joining(&*super::load(args)?)?,
        Part::Snapshots => engine::snapshots(&*super::load(args)?)?,
        Part::Grammar => grammar::measure(&*super::load(args)?, path()?)?,
    };
    say!("{found}")
}

fn loaded(args: &BenchmarkArgs) -> Result<Loaded> {
    let name = args.model.model.as_deref().unwrap_or(DEFAULT_MODEL);
    model::load_model(name, &args.model.variant, TokenizerOptions::default())
}

/// How long something takes.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    device::synchronize()?;
    let begin = Instant::now();
    let made = work()?;
    Ok((made, begin.elapsed()))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Times until the first of `tokens` tokens and between the others, which follow `prompt` after what caches hold, greedily. The caches
/// then hold them too.
fn gaps(model: &dyn CausalLm, caches: &mut Caches, prompt: &[u32], tokens: usize) -> Result<Vec<f64>> {
    device::synchronize()?;
    let options = GenerateOptions { max_tokens: Some(tokens), ..GenerateOptions::default() };
    let mut since = Instant::now();
    let mut gaps = Vec::with_capacity(tokens);
    let mut decoding = Decoding::new(model, prompt, Some(caches), greedy()?, &options)?;
    for token in decoding.by_ref() {
        token?;
        gaps.push(since.elapsed().as_secs_f64());
        since = Instant::now();
    }
    decoding.settle()?;
    drop(decoding);
    device::synchronize()?;
    Ok(gaps)
}

/// As many tokens, which are the same each time.
fn tokens(model: &dyn CausalLm, count: usize, salt: u64) -> Vec<u32> {
    let vocab = u64::try_from(model.info().vocab_size).unwrap_or(1).max(1);
    // The multiplier of a linear congruence, whose upper bits are good enough for this.
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) % vocab) as u32
    };
    let mut state = salt;
    (0..count).map(|_| next(&mut state)).collect()
}

/// The object of a comparison.
fn against(ours: f64, plain: f64) -> Value {
    serde_json::json!({"ours": ours, "plain": plain})
}
