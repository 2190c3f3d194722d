//! The options of `perplexity` and `evaluate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::{VariantArgs, count};

/// `perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// Model folder, GGUF file, hub repository (`org/name`) or `demo` (built in).
    #[arg(long)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) variant: VariantArgs,
    /// Number of sequences to process together.
    #[arg(long, default_value = "8", value_parser = count)]
    pub(crate) batch_size: NonZeroUsize,
    /// Number of tokens per sequence.
    #[arg(long, default_value = "512", value_parser = count)]
    pub(crate) sequence_length: NonZeroUsize,
    /// Number of sequences (-1: all).
    #[arg(long, default_value_t = 256, allow_negative_numbers = true)]
    pub(crate) num_samples: i64,
    /// File, folder or hub dataset of texts or conversations.
    #[arg(long, default_value = "allenai/tulu-3-sft-mixture")]
    pub(crate) data_path: String,
    /// Split of the dataset.
    #[arg(long, default_value = "train")]
    pub(crate) split: String,
    /// Seed of the order of the texts.
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u32,
    /// Also measure the divergence from this model, for example the unquantized one.
    #[arg(long)]
    pub(crate) against: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `evaluate`.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Model folder, GGUF file, hub repository (`org/name`) or `demo` (built in).
    #[arg(long)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) variant: VariantArgs,
    /// Task files in the format of lm-evaluation-harness (YAML).
    #[arg(long, num_args = 1.., required = true)]
    pub(crate) tasks: Vec<PathBuf>,
    /// Folder for the results.
    #[arg(long, default_value = ".")]
    pub(crate) output_dir: PathBuf,
    /// Number of questions to answer together.
    #[arg(long, default_value = "8", value_parser = count)]
    pub(crate) batch_size: NonZeroUsize,
    /// Number of examples before each question [default: that of the task].
    #[arg(long)]
    pub(crate) num_shots: Option<usize>,
    /// Maximum number of tokens of a question with its answer, and of an answer [default: 8192].
    #[arg(long, value_parser = count)]
    pub(crate) max_tokens: Option<NonZeroUsize>,
    /// Maximum number of questions per task [default: all].
    #[arg(long, value_parser = count)]
    pub(crate) limit: Option<NonZeroUsize>,
    /// Random seed, for temperatures above 0.
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u64,
    /// Put each example into a message of its own.
    #[arg(long)]
    pub(crate) fewshot_as_multiturn: bool,
    /// Apply the chat template; the default if the model has one.
    #[arg(long, overrides_with = "no_apply_chat_template")]
    pub(crate) apply_chat_template: bool,
    /// Do not apply the chat template.
    #[arg(long, overrides_with = "apply_chat_template")]
    pub(crate) no_apply_chat_template: bool,
    /// Variables of the chat template, as a JSON object.
    #[arg(long, default_value = "{}")]
    pub(crate) chat_template_args: String,
    /// Not supported: run code in tasks.
    #[arg(long)]
    pub(crate) confirm_run_unsafe_code: bool,
    /// Sampling temperature (0: always take the most likely token).
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temp: f64,
    /// Sample from the most likely tokens that reach this total probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Sample from the N most likely tokens (0: all).
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Also write each question with its answer, as JSON Lines.
    #[arg(long)]
    pub(crate) log_samples: bool,
}
