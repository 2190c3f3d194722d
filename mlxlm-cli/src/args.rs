//! The command line: the options of Python mlx-lm 0.32.2 under their names and with their defaults.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// The model that a command takes when none is named.
pub(crate) const DEFAULT_MODEL: &str = "mlx-community/Llama-3.2-3B-Instruct-4bit";

/// Language models on MLX: generate, chat, convert, without Python.
#[derive(Debug, Parser)]
#[command(name = "mlxlm", version, infer_long_args = true, infer_subcommands = true, subcommand_required = true)]
pub(crate) struct Cli {
    /// Compute on the CPU, even where there is a GPU.
    #[arg(long, global = true)]
    pub(crate) cpu: bool,
    /// Threads that compute on the CPU of a Linux machine [default: its cores].
    #[arg(long, global = true)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate text from a prompt.
    Generate(Box<GenerateArgs>),
    /// Talk with a model.
    Chat(ChatArgs),
    /// Convert a model: quantize, dequantize, change its type, upload it.
    Convert(ConvertArgs),
    /// Read a prompt once and keep the model's state in a file.
    #[command(name = "cache_prompt", alias = "cache-prompt")]
    CachePrompt(CachePromptArgs),
    /// Measure how fast a model reads and writes.
    Benchmark(BenchmarkArgs),
    /// List or delete models in the Hugging Face cache.
    Manage(ManageArgs),
    /// List the model types that can be loaded.
    Models,
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which model, and what is laid over it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// A model folder, a repository of the hub as `org/name`, or `demo`, which is built in.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder of a fine-tune.
    #[arg(long)]
    pub(crate) adapter_path: Option<PathBuf>,
    /// Accepted for compatibility: nothing of a model folder is ever run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always takes the best token.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temp: f64,
    /// Keep the best tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// With this probability, drop all likely tokens but the least likely of them.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) xtc_probability: f64,
    /// From this probability on a token counts as likely.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) xtc_threshold: f64,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct KvArgs {
    /// Keep the keys and values of at most this many tokens.
    #[arg(long)]
    pub(crate) max_kv_size: Option<usize>,
    /// Quantize keys and values to this many bits.
    #[arg(long)]
    pub(crate) kv_bits: Option<i32>,
    /// Values that share a scale, for `--kv-bits`.
    #[arg(long, default_value_t = 64)]
    pub(crate) kv_group_size: i32,
    /// Quantize from this many tokens on.
    #[arg(long, default_value_t = 5000)]
    pub(crate) quantized_kv_start: usize,
}

/// `generate`.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are what they are")]
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// More tokens that end the answer, by name or number.
    #[arg(long = "extra-eos-token", num_args = 1..)]
    pub(crate) extra_eos_token: Vec<String>,
    /// What the model is told of its role.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,
    /// The prompt; `-` reads it from standard input.
    #[arg(long, short, default_value = "hello", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// How the answer begins.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prefill_response: Option<String>,
    /// Tokens to generate at most; -1 for no bound.
    #[arg(long, short, default_value_t = 100)]
    pub(crate) max_tokens: i64,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Keep tokens of at least this share of the best one's probability.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f64,
    /// Keep this many of the best tokens.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Keep at least this many tokens, for `--min-p`.
    #[arg(long, default_value_t = 1)]
    pub(crate) min_tokens_to_keep: usize,
    /// Seed of the random choices.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Take the prompt as it is.
    #[arg(long)]
    pub(crate) ignore_chat_template: bool,
    /// Accepted for compatibility; the template of the model is always the default.
    #[arg(long)]
    pub(crate) use_default_chat_template: bool,
    /// Values for the chat template, as a JSON object.
    #[arg(long)]
    pub(crate) chat_template_config: Option<String>,
    /// Print the text as it comes, and the speed; `false` prints the text alone, at the end.
    #[arg(long, default_value = "true", num_args = 1, action = ArgAction::Set, value_parser = truth)]
    pub(crate) verbose: bool,
    /// Tokens of the prompt to read at once.
    #[arg(long, default_value = "2048")]
    pub(crate) prefill_step_size: NonZeroUsize,
    /// A file that `cache_prompt` wrote; the prompt continues it.
    #[arg(long)]
    pub(crate) prompt_cache_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// A small model with the same tokenizer that proposes tokens.
    #[arg(long)]
    pub(crate) draft_model: Option<String>,
    /// Tokens to propose at once.
    #[arg(long, default_value_t = 3)]
    pub(crate) num_draft_tokens: usize,
    /// Refused, also as `-qa`: activations stay in floating point.
    #[arg(long)]
    pub(crate) quantize_activations: bool,
    /// Refused: no model that can be loaded takes images.
    #[arg(long, num_args = 1..)]
    pub(crate) image: Vec<PathBuf>,
}

/// `chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Seed of the random choices.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Keep the keys and values of at most this many tokens.
    #[arg(long)]
    pub(crate) max_kv_size: Option<usize>,
    /// Tokens of the prompt to read at once.
    #[arg(long, default_value = "2048")]
    pub(crate) prefill_step_size: NonZeroUsize,
    /// Tokens of an answer at most.
    #[arg(long, short, default_value_t = 256)]
    pub(crate) max_tokens: i64,
    /// What the model is told of its role.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,
    /// Refused: pipelines need several machines, which this version does not drive.
    #[arg(long)]
    pub(crate) pipeline: bool,
}

/// `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// A model folder or a repository of the hub.
    #[arg(long, visible_alias = "hf-path")]
    pub(crate) model: String,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder to write, which must not exist.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) mlx_path: PathBuf,
    /// Quantize the weights.
    #[arg(long, short)]
    pub(crate) quantize: bool,
    /// Weights that share a scale; the mode decides if absent.
    #[arg(long, requires = "quantize")]
    pub(crate) q_group_size: Option<i32>,
    /// Bits for each weight; the mode decides if absent.
    #[arg(long, requires = "quantize")]
    pub(crate) q_bits: Option<i32>,
    /// How groups of weights become bits.
    #[arg(long, default_value = "affine", requires = "quantize")]
    pub(crate) q_mode: QuantMode,
    /// More bits for the more sensitive layers.
    #[arg(long, requires = "quantize")]
    pub(crate) quant_predicate: Option<MixedRecipe>,
    /// The type of the weights; that of the configuration if absent.
    #[arg(long)]
    pub(crate) dtype: Option<WeightType>,
    /// The repository of the hub to upload the result to.
    #[arg(long)]
    pub(crate) upload_repo: Option<String>,
    /// Unpack quantized weights.
    #[arg(long, short, conflicts_with = "quantize")]
    pub(crate) dequantize: bool,
    /// Accepted for compatibility: nothing of a model folder is ever run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// `--q-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantMode {
    /// A scale and a bias for each group.
    Affine,
    /// 4-bit floats, a power of two for each 32.
    Mxfp4,
    /// 4-bit floats, an 8-bit float for each 16.
    Nvfp4,
    /// 8-bit floats, a power of two for each 32.
    Mxfp8,
}

/// `--quant-predicate`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MixedRecipe {
    /// 2 and 6 bits.
    #[value(name = "mixed_2_6")]
    Mixed2_6,
    /// 3 and 4 bits.
    #[value(name = "mixed_3_4")]
    Mixed3_4,
    /// 3 and 6 bits.
    #[value(name = "mixed_3_6")]
    Mixed3_6,
    /// 4 and 6 bits.
    #[value(name = "mixed_4_6")]
    Mixed4_6,
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum WeightType {
    /// IEEE half precision.
    Float16,
    /// The upper half of single precision.
    Bfloat16,
    /// Single precision.
    Float32,
}

/// `cache_prompt`.
#[derive(Debug, Args)]
pub(crate) struct CachePromptArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The token that ends an answer, instead of the tokenizer's own.
    #[arg(long)]
    pub(crate) eos_token: Option<String>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// The file to write.
    #[arg(long)]
    pub(crate) prompt_cache_file: PathBuf,
    /// The prompt; `-` reads it from standard input.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prompt: String,
}

/// `benchmark`.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are what they are")]
#[derive(Debug, Args)]
pub(crate) struct BenchmarkArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tokens of each prompt, which are random.
    #[arg(long, short, default_value = "512")]
    pub(crate) prompt_tokens: NonZeroUsize,
    /// Tokens that follow each prompt.
    #[arg(long, short, default_value = "1024")]
    pub(crate) generation_tokens: NonZeroUsize,
    /// Sequences at once.
    #[arg(long, short, default_value = "1")]
    pub(crate) batch_size: NonZeroUsize,
    /// How often it is timed, after once to warm up.
    #[arg(long, short, default_value = "5")]
    pub(crate) num_trials: NonZeroUsize,
    /// Tokens of a prompt to read at once.
    #[arg(long, default_value = "2048")]
    pub(crate) prefill_step_size: NonZeroUsize,
    /// Seconds to rest before each trial.
    #[arg(long, default_value_t = 0)]
    pub(crate) delay: u64,
    /// Random keys and values that are there before the prompt, as if so many tokens had been read.
    #[arg(long, default_value_t = 0)]
    pub(crate) context_tokens: usize,
    /// Time the first run too.
    #[arg(long)]
    pub(crate) skip_warmup: bool,
    /// Print one JSON object, at the end.
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure how fast all cores together read memory, and no model.
    #[arg(long)]
    pub(crate) bandwidth: bool,
    /// Refused: pipelines need several machines, which this version does not drive.
    #[arg(long)]
    pub(crate) pipeline: bool,
    /// Refused, also as `-qa`: activations stay in floating point.
    #[arg(long)]
    pub(crate) quantize_activations: bool,
}

/// `manage`.
#[derive(Debug, Args)]
pub(crate) struct ManageArgs {
    /// List the models in the cache.
    #[arg(long)]
    pub(crate) scan: bool,
    /// Delete the models whose name contains the pattern, after asking.
    #[arg(long)]
    pub(crate) delete: bool,
    /// What the names contain.
    #[arg(long, default_value = "mlx")]
    pub(crate) pattern: String,
}

/// Everything is true except `false` and `f`, as in the reference.
#[expect(clippy::unnecessary_wraps, reason = "the shape that clap asks of a parser")]
fn truth(text: &str) -> Result<bool, String> {
    Ok(!matches!(text.to_lowercase().as_str(), "false" | "f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_is_true_unless_it_says_false() {
        let verbose = |text| truth(text).unwrap();
        assert!(verbose("true") && verbose("0") && !verbose("False") && !verbose("f"));
    }
}
