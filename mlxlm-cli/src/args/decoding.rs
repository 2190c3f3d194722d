//! Options of how an answer is made: who proposes tokens, what it must be, and what is kept of a long prompt.

use std::num::{NonZeroI32, NonZeroUsize};
use std::path::PathBuf;

use clap::Args;

/// How tokens are proposed, so that the model checks several at once. The text does not depend on it.
#[derive(Debug, Clone, Args)]
pub(crate) struct SpeculationArgs {
    /// Draft model: a small model with the same tokenizer that proposes tokens.
    #[arg(long)]
    pub(crate) draft_model: Option<String>,
    /// Number of tokens that the draft model proposes at once (at most 63).
    #[arg(long, default_value_t = 3)]
    pub(crate) num_draft_tokens: usize,
    /// Prompt lookup: propose up to N tokens that followed the same words earlier in the text.
    #[arg(long, value_name = "N")]
    pub(crate) prompt_lookup_num_tokens: Option<NonZeroUsize>,
    /// Multi-token prediction: propose DEPTH tokens with the model's own heads.
    #[arg(long, value_name = "DEPTH", num_args = 0..=1, default_missing_value = "1")]
    pub(crate) mtp: Option<NonZeroUsize>,
    /// Choose the fastest kind of speculation while running, or none.
    #[arg(long)]
    pub(crate) auto_speculative: bool,
}

/// What an answer must be.
#[derive(Debug, Clone, Args)]
pub(crate) struct GrammarArgs {
    /// Answer with JSON that matches the JSON schema in this file.
    #[arg(long, value_name = "FILE", group = "grammar_of_answer")]
    pub(crate) json_schema: Option<PathBuf>,
    /// Answer with a JSON object.
    #[arg(long, group = "grammar_of_answer")]
    pub(crate) json_object: bool,
    /// Answer with text that matches this regular expression.
    #[arg(long, group = "grammar_of_answer", allow_hyphen_values = true)]
    pub(crate) regex: Option<String>,
    /// Answer with text that matches the Lark grammar in this file.
    #[arg(long, value_name = "FILE", group = "grammar_of_answer")]
    pub(crate) grammar: Option<PathBuf>,
    /// Answer with one of these texts; repeatable.
    #[arg(long, value_name = "TEXT", group = "grammar_of_answer", allow_hyphen_values = true)]
    pub(crate) choice: Vec<String>,
}

/// The precision of the KV cache.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrecisionArgs {
    /// Bits of the quantized KV cache (`8,4`: 8 for keys, 4 for values).
    #[arg(long, value_name = "BITS", value_parser = kv_bits)]
    pub(crate) kv_bits: Option<[i32; 2]>,
    /// Group size of the quantized KV cache.
    #[arg(long, default_value_t = 64)]
    pub(crate) kv_group_size: i32,
    /// Number of tokens from which the KV cache is quantized.
    #[arg(long, default_value_t = 5000)]
    pub(crate) quantized_kv_start: usize,
    /// Rotate keys and values before quantizing them [default: on for 4 bits and fewer].
    #[arg(long, value_name = "on|off", value_parser = on_or_off, num_args = 0..=1, default_missing_value = "on")]
    pub(crate) kv_rotate: Option<bool>,
    /// Keep the states of gated delta nets in bf16: faster, with slightly different text.
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
pub(crate) struct SnapKvArgs {
    /// Keep only the tokens of a long prompt that its end attends to: faster, less memory, different text.
    #[arg(long)]
    pub(crate) snapkv: bool,
    /// Number of tokens to keep for their scores.
    #[arg(long, default_value_t = 4096, requires = "snapkv")]
    pub(crate) snapkv_top_k: u16,
    /// Number of first tokens that are always kept.
    #[arg(long, default_value_t = 128, requires = "snapkv")]
    pub(crate) snapkv_sink: u16,
    /// Number of last tokens that are always kept.
    #[arg(long, default_value = "512", requires = "snapkv")]
    pub(crate) snapkv_window: NonZeroI32,
    /// Number of tokens at the end of the prompt that score the others.
    #[arg(long, default_value = "32", requires = "snapkv")]
    pub(crate) snapkv_queries: NonZeroI32,
    /// Number of neighbours to average scores over.
    #[arg(long, default_value = "1", requires = "snapkv")]
    pub(crate) snapkv_pool: NonZeroI32,
    /// Minimum length of a prompt for SnapKV; shorter prompts are kept whole.
    #[arg(long, default_value_t = 49152, requires = "snapkv")]
    pub(crate) snapkv_min_tokens: usize,
    /// Drop tokens while the prompt is processed, which limits memory too.
    #[arg(long, requires = "snapkv")]
    pub(crate) snapkv_while_reading: bool,
}

/// Many prompts at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct PromptsArgs {
    /// JSON Lines file of prompts: strings, or objects with `prompt` or `messages` and an optional `id`.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", requires = "output")]
    pub(crate) prompts: Option<PathBuf>,
    /// JSON Lines file for the answers; prompts that it has answers to are skipped.
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub(crate) output: Option<PathBuf>,
    /// Number of answers to generate at the same time.
    #[arg(long, default_value = "16", requires = "prompts")]
    pub(crate) batch_size: NonZeroUsize,
}
