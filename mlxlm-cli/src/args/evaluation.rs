//! The options of `perplexity` and `evaluate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::{VariantArgs, count};

/// `perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// A model folder, a GGUF file, a repository of the hub as `org/name`, or `demo`.
    #[arg(long)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) variant: VariantArgs,
    /// Sequences that are read together.
    #[arg(long, default_value = "8", value_parser = count)]
    pub(crate) batch_size: NonZeroUsize,
    /// Tokens in a sequence.
    #[arg(long, default_value = "512", value_parser = count)]
    pub(crate) sequence_length: NonZeroUsize,
    /// Sequences that are read; -1 for all.
    #[arg(long, default_value_t = 256, allow_negative_numbers = true)]
    pub(crate) num_samples: i64,
    /// A file, a folder, or a dataset of the hub, with texts or conversations.
    #[arg(long, default_value = "allenai/tulu-3-sft-mixture")]
    pub(crate) data_path: String,
    /// The split of the dataset.
    #[arg(long, default_value = "train")]
    pub(crate) split: String,
    /// What the order of the texts is drawn from.
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u32,
    /// Also say how far the model is from this one, as the original that it was quantized from.
    #[arg(long)]
    pub(crate) against: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `evaluate`.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// A model folder, a GGUF file, a repository of the hub as `org/name`, or `demo`.
    #[arg(long)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) variant: VariantArgs,
    /// Files of tasks in the form of lm-evaluation-harness (YAML).
    #[arg(long, num_args = 1.., required = true)]
    pub(crate) tasks: Vec<PathBuf>,
    /// The folder of the results.
    #[arg(long, default_value = ".")]
    pub(crate) output_dir: PathBuf,
    /// Questions that are answered together.
    #[arg(long, default_value = "8", value_parser = count)]
    pub(crate) batch_size: NonZeroUsize,
    /// Examples before each question, instead of the task's own number.
    #[arg(long)]
    pub(crate) num_shots: Option<usize>,
    /// The most tokens of a question with its answer, and of an answer [default: 8192].
    #[arg(long, value_parser = count)]
    pub(crate) max_tokens: Option<NonZeroUsize>,
    /// Only the first questions of each task.
    #[arg(long, value_parser = count)]
    pub(crate) limit: Option<NonZeroUsize>,
    /// What answers are drawn from, where the temperature is not 0.
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u64,
    /// Each example as messages of its own.
    #[arg(long)]
    pub(crate) fewshot_as_multiturn: bool,
    /// Ask in the model's chat format; the default where it has one.
    #[arg(long, overrides_with = "no_apply_chat_template")]
    pub(crate) apply_chat_template: bool,
    /// Ask in plain text.
    #[arg(long, overrides_with = "apply_chat_template")]
    pub(crate) no_apply_chat_template: bool,
    /// Values for the chat template, as a JSON object.
    #[arg(long, default_value = "{}")]
    pub(crate) chat_template_args: String,
    /// Refused: tasks that run code are not supported.
    #[arg(long)]
    pub(crate) confirm_run_unsafe_code: bool,
    /// Temperature; 0 always takes the best token.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temp: f64,
    /// Keep the best tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Keep this many of the best tokens.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Also write each question with its answer, as lines of JSON.
    #[arg(long)]
    pub(crate) log_samples: bool,
}
