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
    /// Number of tokens in each prompt; they are random.
    #[arg(long, short, default_value = "512", value_parser = count)]
    pub(crate) prompt_tokens: NonZeroUsize,
    /// Number of tokens to generate after each prompt.
    #[arg(long, short, default_value = "1024", value_parser = count)]
    pub(crate) generation_tokens: NonZeroUsize,
    /// Number of sequences to run at once.
    #[arg(long, short, default_value = "1", value_parser = count)]
    pub(crate) batch_size: NonZeroUsize,
    /// Number of timed runs, after one warm-up.
    #[arg(long, short, default_value = "5")]
    pub(crate) num_trials: NonZeroUsize,
    /// Number of prompt tokens to process at once [default: 512 on x86-64 CPUs, else 2048].
    #[arg(long)]
    pub(crate) prefill_step_size: Option<NonZeroUsize>,
    /// Pause before each run, in seconds.
    #[arg(long, default_value_t = 0)]
    pub(crate) delay: u64,
    /// Number of tokens (random keys and values) in the KV cache before the prompt.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    pub(crate) context_tokens: u32,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Skip the warm-up.
    #[arg(long)]
    pub(crate) skip_warmup: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// For `cargo xtask bench`: measure this part of what stands on top of plain decoding, and print one JSON object.
    #[arg(long, hide = true, hide_possible_values = true, value_enum)]
    pub(crate) decoding: Option<crate::commands::DecodingPart>,
    /// What such a part needs: a folder to write to, or a vocabulary.
    #[arg(long, hide = true, requires = "decoding")]
    pub(crate) decoding_path: Option<PathBuf>,
    /// Only measure the memory bandwidth of all cores together.
    #[arg(long)]
    pub(crate) bandwidth: bool,
    /// Not supported: split the model over several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
    /// Not supported, nor is `-qa`: quantize activations.
    #[arg(long)]
    pub(crate) quantize_activations: bool,
}
