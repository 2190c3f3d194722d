//! The options of `benchmark`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::{ModelArgs, PrecisionArgs, count};

/// `benchmark`.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are what they are")]
#[derive(Debug, Args)]
pub(crate) struct BenchmarkArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tokens of each prompt, which are random.
    #[arg(long, short, default_value = "512", value_parser = count)]
    pub(crate) prompt_tokens: NonZeroUsize,
    /// Tokens that follow each prompt.
    #[arg(long, short, default_value = "1024", value_parser = count)]
    pub(crate) generation_tokens: NonZeroUsize,
    /// How many sequences to run at once.
    #[arg(long, short, default_value = "1", value_parser = count)]
    pub(crate) batch_size: NonZeroUsize,
    /// How many timed runs, after one to warm up.
    #[arg(long, short, default_value = "5")]
    pub(crate) num_trials: NonZeroUsize,
    /// Tokens of a prompt to read at once.
    #[arg(long, default_value = "2048")]
    pub(crate) prefill_step_size: NonZeroUsize,
    /// Seconds to rest before each trial.
    #[arg(long, default_value_t = 0)]
    pub(crate) delay: u64,
    /// Tokens in the KV cache before the prompt, with random keys and values.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    pub(crate) context_tokens: u32,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Time the first run too.
    #[arg(long)]
    pub(crate) skip_warmup: bool,
    /// Print one JSON object, at the end.
    #[arg(long)]
    pub(crate) json: bool,
    /// For `cargo xtask bench`: measure this part of what stands on top of plain decoding, and print one JSON object.
    #[arg(long, hide = true, hide_possible_values = true, value_enum)]
    pub(crate) decoding: Option<crate::commands::DecodingPart>,
    /// What such a part needs: a folder to write to, or a vocabulary.
    #[arg(long, hide = true, requires = "decoding")]
    pub(crate) decoding_path: Option<PathBuf>,
    /// Measure only how fast all cores together read memory.
    #[arg(long)]
    pub(crate) bandwidth: bool,
    /// Not supported: pipelines need several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
    /// Not supported (nor `-qa`): activations stay in floating point.
    #[arg(long)]
    pub(crate) quantize_activations: bool,
}
