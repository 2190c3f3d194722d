//! Options of how an answer is made: who proposes tokens, what it must be, and what is kept of a long prompt.

use std::num::{NonZeroI32, NonZeroUsize};
use std::path::PathBuf;

use clap::Args;

/// Who guesses tokens, so that the model reads several at once. The text does not depend on it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speculation")]
pub(crate) struct SpeculationArgs {
    /// A small model with the same tokenizer that proposes tokens.
    #[arg(long)]
    pub(crate) draft_model: Option<String>,
    /// Tokens that the draft model proposes at once; at most 63.
    #[arg(long, default_value_t = 3)]
    pub(crate) num_draft_tokens: usize,
    /// Propose up to this many tokens that followed the same words before, in the prompt or in the answer.
    #[arg(long, value_name = "N")]
    pub(crate) prompt_lookup_num_tokens: Option<NonZeroUsize>,
    /// Propose this many tokens by the model's own heads for further tokens (multi-token prediction).
    #[arg(long, value_name = "DEPTH", num_args = 0..=1, default_missing_value = "1")]
    pub(crate) mtp: Option<NonZeroUsize>,
    /// Propose whatever pays, measured as it goes, and nothing where nothing pays.
    #[arg(long)]
    pub(crate) auto_speculative: bool,
}

/// What an answer must be.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Format of the answer")]
pub(crate) struct GrammarArgs {
    /// Answer with JSON that fits the JSON schema in this file.
    #[arg(long, value_name = "FILE", group = "grammar_of_answer")]
    pub(crate) json_schema: Option<PathBuf>,
    /// Answer with a JSON object.
    #[arg(long, group = "grammar_of_answer")]
    pub(crate) json_object: bool,
    /// Answer with text that matches this regular expression as a whole.
    #[arg(long, group = "grammar_of_answer", allow_hyphen_values = true)]
    pub(crate) regex: Option<String>,
    /// Answer with text of the Lark grammar in this file.
    #[arg(long, value_name = "FILE", group = "grammar_of_answer")]
    pub(crate) grammar: Option<PathBuf>,
    /// Answer with one of these texts; may be given several times.
    #[arg(long, value_name = "TEXT", group = "grammar_of_answer", allow_hyphen_values = true)]
    pub(crate) choice: Vec<String>,
}

/// How exactly what the model remembers is kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrecisionArgs {
    /// Quantize the KV cache to this many bits, or keys and values to their own, as in 8,4.
    #[arg(long, value_name = "BITS", value_parser = kv_bits)]
    pub(crate) kv_bits: Option<[i32; 2]>,
    /// Values that share a scale, for `--kv-bits`.
    #[arg(long, default_value_t = 64)]
    pub(crate) kv_group_size: i32,
    /// Quantize the KV cache once this many tokens were read.
    #[arg(long, default_value_t = 5000)]
    pub(crate) quantized_kv_start: usize,
    /// Rotate keys and values before they are quantized, or do not [default: what has 4 bits and fewer is rotated].
    #[arg(long, value_name = "on|off", value_parser = on_or_off, num_args = 0..=1, default_missing_value = "on")]
    pub(crate) kv_rotate: Option<bool>,
    /// Keep the states of gated delta nets in bf16: half the memory traffic for them, and not quite the same text.
    #[arg(long)]
    pub(crate) gdn_state_bf16: bool,
}

fn kv_bits(text: &str) -> Result<[i32; 2], String> {
    let bits = |text: &str| text.trim().parse::<i32>().ok();
    let read = match text.split_once(',') {
        None => bits(text).map(|bits| [bits; 2]),
        Some((keys, values)) => bits(keys).zip(bits(values)).map(|(keys, values)| [keys, values]),
    };
    read.ok_or_else(|| "expected bits, as in 8, or those of keys and those of values, as in 8,4".to_owned())
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected `on` or `off`".to_owned()),
    }
}

/// Keeping only what the end of a long prompt looks at (SnapKV).
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "SnapKV")]
pub(crate) struct SnapKvArgs {
    /// Of a long prompt, keep only what its end looks at: faster answers, less memory, and not the same text.
    #[arg(long)]
    pub(crate) snapkv: bool,
    /// Tokens to keep for their scores.
    #[arg(long, default_value_t = 4096, requires = "snapkv")]
    pub(crate) snapkv_top_k: u16,
    /// First tokens to keep always.
    #[arg(long, default_value_t = 128, requires = "snapkv")]
    pub(crate) snapkv_sink: u16,
    /// Latest tokens to keep always.
    #[arg(long, default_value = "512", requires = "snapkv")]
    pub(crate) snapkv_window: NonZeroI32,
    /// Tokens at the end of the prompt that score the others.
    #[arg(long, default_value = "32", requires = "snapkv")]
    pub(crate) snapkv_queries: NonZeroI32,
    /// Average scores over this many neighbours.
    #[arg(long, default_value = "1", requires = "snapkv")]
    pub(crate) snapkv_pool: NonZeroI32,
    /// Keep prompts shorter than this whole.
    #[arg(long, default_value_t = 49152, requires = "snapkv")]
    pub(crate) snapkv_min_tokens: usize,
    /// Drop tokens while the prompt is read, which bounds memory too.
    #[arg(long, requires = "snapkv")]
    pub(crate) snapkv_while_reading: bool,
}

/// Many prompts at once.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Many prompts")]
pub(crate) struct PromptsArgs {
    /// Answer each prompt of a JSON Lines file: strings, or objects with `prompt` or `messages`, and perhaps an `id`.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", requires = "output")]
    pub(crate) prompts: Option<PathBuf>,
    /// The JSON Lines file to write answers to. Those it holds already are not made again.
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub(crate) output: Option<PathBuf>,
    /// Answers to write at the same time.
    #[arg(long, default_value = "16", requires = "prompts")]
    pub(crate) batch_size: NonZeroUsize,
}
