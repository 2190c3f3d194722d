//! The command line: the options of Python mlx-lm 0.32.2 under their names and with their defaults.

use std::num::{NonZeroI32, NonZeroUsize};
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

mod benchmark;
mod decoding;
mod evaluation;
mod front;
mod merge;
mod on_disk;
mod quantizing;
mod serving;
mod tuning;

pub(crate) use benchmark::BenchmarkArgs;
pub(crate) use decoding::{GrammarArgs, PrecisionArgs, PromptsArgs, SnapKvArgs, SpeculationArgs};
pub(crate) use evaluation::{EvaluateArgs, PerplexityArgs};
pub(crate) use front::{FrontArgs, ImageUse, LogFormat};
pub(crate) use merge::{AdapterFormat, AdapterLayoutArgs, MergeArgs, MergeMethod};
pub(crate) use on_disk::{ListArgs, ManageArgs, ShowArgs};
pub(crate) use quantizing::{
    AwqArgs, DwqArgs, DynamicQuantArgs, GptqArgs, LearnArgs, QuantizeArgs, ShareArgs, UploadArgs,
};
pub(crate) use serving::{AdapterArgs, DiskPromptCacheArgs, ServedArgs};
pub(crate) use tuning::{FuseArgs, LoraArgs};

/// The model that a command takes when none is named.
pub(crate) const DEFAULT_MODEL: &str = "mlx-community/Llama-3.2-3B-Instruct-4bit";

/// The folder that `convert` writes if none is named, and that `cache_prompt` reads.
pub(crate) const CONVERTED_MODEL: &str = "mlx_model";

/// Run, serve, fine-tune and quantize language models on MLX.
#[derive(Debug, Parser)]
#[command(
    name = "mlxlm",
    version,
    infer_long_args = true,
    infer_subcommands = true,
    subcommand_required = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// Use the CPU even if there is a GPU.
    #[arg(long, global = true)]
    pub(crate) cpu: bool,
    /// Number of CPU threads, on Linux [default: number of cores].
    #[arg(long, global = true)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Fail instead of warning if a model needs more memory than is free.
    #[arg(long, global = true)]
    pub(crate) strict_memory: bool,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate text from a prompt.
    Generate(Box<GenerateArgs>),
    /// Chat with a model in the terminal.
    Chat(ChatArgs),
    /// Check the weights of a model for NaN and infinite values.
    Check(CheckArgs),
    /// Convert a model: quantize, dequantize, change the type.
    Convert(ConvertArgs),
    /// Fine-tune a model: LoRA, DoRA or all weights.
    Lora(Box<LoraArgs>),
    /// Fuse an adapter into the weights of its model.
    Fuse(FuseArgs),
    /// Quantize a model to a target size or quality.
    Quantize(QuantizeArgs),
    /// Quantize with AWQ (activation-aware scaling and clipping).
    Awq(AwqArgs),
    /// Quantize with GPTQ (rounding errors are corrected column by column).
    Gptq(GptqArgs),
    /// Improve a quantized model by training its scales against the original.
    Dwq(DwqArgs),
    /// Quantize with more bits for the more sensitive layers.
    #[command(name = "dynamic_quant", alias = "dynamic-quant")]
    DynamicQuant(DynamicQuantArgs),
    /// Upload a model folder to the Hugging Face hub.
    Upload(UploadArgs),
    /// Not supported: copy a model between machines.
    #[command(hide = true)]
    Share(ShareArgs),
    /// Merge fine-tunes of one model: slerp, linear, TIES, DARE.
    Merge(MergeArgs),
    /// Measure perplexity, and the divergence from another model.
    Perplexity(PerplexityArgs),
    /// Run evaluation tasks in the format of lm-evaluation-harness.
    Evaluate(EvaluateArgs),
    /// Convert an adapter between the formats of mlx-lm and PEFT.
    Adapter(AdapterLayoutArgs),
    /// Process a prompt once and save its KV cache.
    #[command(name = "cache_prompt", alias = "cache-prompt")]
    CachePrompt(CachePromptArgs),
    /// Measure the speed of prompt processing and generation.
    Benchmark(BenchmarkArgs),
    /// Serve models over HTTP with APIs like OpenAI's and Anthropic's.
    #[command(alias = "serve")]
    Server(Box<ServerArgs>),
    /// List or delete models in the Hugging Face cache.
    Manage(ManageArgs),
    /// List the supported model types, or measure a `config.json`.
    Models(ModelsArgs),
    /// List the models on this machine.
    List(ListArgs),
    /// Show the parameters, bits, context and memory of a model.
    Show(ShowArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    #[command(hide = true)]
    Man {
        /// The folder to write them to.
        folder: PathBuf,
    },
}

/// Which model, and which adapter of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Model folder, GGUF file, hub repository (`org/name`) or `demo` (built in).
    #[arg(long)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) variant: VariantArgs,
}

/// Which version of a model, and which adapter of it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct VariantArgs {
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Folder of a LoRA or DoRA adapter.
    #[arg(long)]
    pub(crate) adapter_path: Option<PathBuf>,
    /// No effect: code in a model folder is never run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Args)]
pub(crate) struct SamplingArgs {
    /// Sampling temperature (0: always take the most likely token).
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temp: f64,
    /// Sample from the most likely tokens that reach this total probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Probability of applying XTC at each token.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) xtc_probability: f64,
    /// Probability from which XTC counts a token as likely.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) xtc_threshold: f64,
}

/// The KV cache.
#[derive(Debug, Clone, Args)]
pub(crate) struct KvArgs {
    /// Maximum number of tokens in the KV cache [default: no limit].
    #[arg(long)]
    pub(crate) max_kv_size: Option<usize>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
}

/// `generate`.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are what they are")]
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Additional tokens that end the answer (text or id).
    #[arg(long = "extra-eos-token", num_args = 1..)]
    pub(crate) extra_eos_token: Vec<String>,
    /// System prompt.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,
    /// Prompt (`-`: read it from standard input).
    #[arg(long, short, default_value = "hello", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Start the answer with this text.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prefill_response: Option<String>,
    /// Maximum number of tokens to generate (-1: no limit).
    #[arg(long, short, default_value_t = 100)]
    pub(crate) max_tokens: i64,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Minimum probability of a token, relative to the most likely one.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f64,
    /// Sample from the N most likely tokens (0: all).
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Minimum number of tokens that `--min-p` keeps.
    #[arg(long, default_value_t = 1)]
    pub(crate) min_tokens_to_keep: usize,
    /// Random seed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Do not apply the chat template.
    #[arg(long)]
    pub(crate) ignore_chat_template: bool,
    /// No effect: the model's chat template is the default.
    #[arg(long)]
    pub(crate) use_default_chat_template: bool,
    /// Variables of the chat template, as a JSON object.
    #[arg(long)]
    pub(crate) chat_template_config: Option<String>,
    /// Stream the text and print the speed (`false`: print only the text, at the end).
    #[arg(long, default_value = "true", num_args = 1, action = ArgAction::Set, value_parser = truth)]
    pub(crate) verbose: bool,
    /// Number of prompt tokens to process at once [default: 512 on x86-64 CPUs, else 2048].
    #[arg(long)]
    pub(crate) prefill_step_size: Option<NonZeroUsize>,
    /// Prompt cache written by `mlxlm cache_prompt`; the prompt continues it.
    #[arg(long)]
    pub(crate) prompt_cache_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) grammar: GrammarArgs,
    #[command(flatten)]
    pub(crate) snapkv: SnapKvArgs,
    #[command(flatten)]
    pub(crate) many: PromptsArgs,
    /// Not supported, nor is `-qa`: quantize activations.
    #[arg(long)]
    pub(crate) quantize_activations: bool,
    /// Not supported: images.
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
    /// Random seed.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Number of prompt tokens to process at once [default: 512 on x86-64 CPUs, else 2048].
    #[arg(long)]
    pub(crate) prefill_step_size: Option<NonZeroUsize>,
    /// Maximum number of tokens in an answer (-1: no limit).
    #[arg(long, short, default_value_t = 256)]
    pub(crate) max_tokens: i64,
    /// System prompt.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,
    /// Not supported: split the model over several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
}

/// `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Model folder, GGUF file or hub repository (`org/name`).
    #[arg(long, visible_alias = "hf-path", required_unless_present = "gguf_path")]
    pub(crate) model: Option<String>,
    /// GGUF file (of a split file, the first part).
    #[arg(long, conflicts_with_all = ["model", "revision"])]
    pub(crate) gguf_path: Option<PathBuf>,
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Output folder; it must not exist.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) mlx_path: PathBuf,
    /// Quantize the weights.
    #[arg(long, short)]
    pub(crate) quantize: bool,
    /// Group size of quantization [default: depends on `--q-mode`].
    #[arg(long, requires = "quantize")]
    pub(crate) q_group_size: Option<i32>,
    /// Bits per weight [default: depends on `--q-mode`].
    #[arg(long, requires = "quantize")]
    pub(crate) q_bits: Option<i32>,
    /// Quantization mode.
    #[arg(long, default_value = "affine", requires = "quantize")]
    pub(crate) q_mode: QuantMode,
    /// Mixed recipe: more bits for the more sensitive layers.
    #[arg(long, requires = "quantize")]
    pub(crate) quant_predicate: Option<MixedRecipe>,
    /// Type of the weights [default: `dtype` in `config.json`].
    #[arg(long)]
    pub(crate) dtype: Option<WeightType>,
    /// Upload the result to this hub repository.
    #[arg(long)]
    pub(crate) upload_repo: Option<String>,
    /// Dequantize the weights.
    #[arg(long, short, conflicts_with = "quantize")]
    pub(crate) dequantize: bool,
    /// No effect: code in a model folder is never run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// `--q-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantMode {
    /// A scale and a bias per group.
    Affine,
    /// 4-bit floats with a power-of-two scale per 32 weights.
    Mxfp4,
    /// 4-bit floats with an 8-bit float scale per 16 weights.
    Nvfp4,
    /// 8-bit floats with a power-of-two scale per 32 weights.
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
    /// bfloat16.
    Bfloat16,
    /// Single precision.
    Float32,
}

/// `models`.
#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// `config.json` or its folder: print the parameters, caches and size of the model, without weights.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the list as Markdown, for `docs/architectures.md`.
    #[arg(long, hide = true, conflicts_with_all = ["json", "config"])]
    pub(crate) markdown: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Model folder, GGUF file, hub repository (`org/name`) or `demo` (built in).
    pub(crate) model: String,
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Folder of a LoRA or DoRA adapter.
    #[arg(long)]
    pub(crate) adapter_path: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `cache_prompt`.
#[derive(Debug, Args)]
pub(crate) struct CachePromptArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Token that ends an answer, instead of the tokenizer's.
    #[arg(long)]
    pub(crate) eos_token: Option<String>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Output file.
    #[arg(long)]
    pub(crate) prompt_cache_file: PathBuf,
    /// Prompt (`-`: read it from standard input).
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) prompt: String,
}

/// `server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) served: ServedArgs,
    /// Additional names of the model in requests.
    #[arg(long, value_delimiter = ',')]
    pub(crate) served_model_name: Vec<String>,
    /// Address to listen on (0.0.0.0: all interfaces).
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on (0: any free port).
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Allowed CORS origins (`*`: all) [default: pages of this machine].
    #[arg(long, value_delimiter = ',')]
    pub(crate) allowed_origins: Option<Vec<String>>,
    /// Allowed `Host` headers (`*`: all) [default: on a local address those of this machine, otherwise all].
    #[arg(long, value_delimiter = ',')]
    pub(crate) allowed_hosts: Option<Vec<String>>,
    /// API key that requests must have; repeatable, also `MLXLM_API_KEY`.
    #[arg(long)]
    pub(crate) api_key: Vec<String>,
    /// File of API keys, one per line.
    #[arg(long)]
    pub(crate) api_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) disk_prompt_cache: DiskPromptCacheArgs,
    #[command(flatten)]
    pub(crate) adapters: AdapterArgs,
    /// Minimum level of log messages.
    #[arg(long, default_value = "INFO", ignore_case = true)]
    pub(crate) log_level: LogLevel,
    /// Chat template to use instead of the model's.
    #[arg(long, default_value = "")]
    pub(crate) chat_template: String,
    /// No effect: the model's chat template is the default.
    #[arg(long)]
    pub(crate) use_default_chat_template: bool,
    /// Variables of the chat template, as a JSON object.
    #[arg(long, default_value = "{}")]
    pub(crate) chat_template_args: String,
    /// Default sampling temperature (0: always take the most likely token).
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temp: f64,
    /// Sample from the most likely tokens that reach this total probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Sample from the N most likely tokens (0: all).
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Minimum probability of a token, relative to the most likely one.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f64,
    /// Default maximum number of tokens in an answer.
    #[arg(long, short, default_value = "512")]
    pub(crate) max_tokens: NonZeroUsize,
    /// Maximum number of sequences generated at the same time.
    #[arg(long, default_value = "32")]
    pub(crate) decode_concurrency: NonZeroUsize,
    /// Maximum number of prompts processed at the same time.
    #[arg(long, default_value = "8")]
    pub(crate) prompt_concurrency: NonZeroUsize,
    /// Number of prompt tokens to process at once; other requests wait as long [default: 512 on x86-64 CPUs, else 2048].
    #[arg(long)]
    pub(crate) prefill_step_size: Option<NonZeroUsize>,
    /// Number of sequences kept in the prompt cache.
    #[arg(long, default_value_t = 10)]
    pub(crate) prompt_cache_size: usize,
    /// Maximum memory of the prompt cache, for example 512M or 4GB.
    #[arg(long, value_name = "BYTES", value_parser = size_bytes)]
    pub(crate) prompt_cache_bytes: Option<usize>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Maximum number of waiting requests; more are rejected.
    #[arg(long, default_value_t = 256)]
    pub(crate) queue_size: usize,
    /// Maximum duration of a request in seconds [default: no limit].
    #[arg(long)]
    pub(crate) request_timeout: Option<u64>,
    /// Maximum size of a request body, for example 32M.
    #[arg(long, default_value = "32M", value_name = "BYTES", value_parser = size_bytes)]
    pub(crate) max_body_bytes: usize,
    /// Not supported: split the model over several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
    #[command(flatten)]
    pub(crate) front: FrontArgs,
}

/// `--log-level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum LogLevel {
    /// Everything.
    #[value(name = "DEBUG")]
    Debug,
    /// Requests, and models that load or unload.
    #[value(name = "INFO")]
    Info,
    /// Problems that the server handles.
    #[value(name = "WARNING")]
    Warning,
    /// Failures only.
    #[value(name = "ERROR", alias = "CRITICAL")]
    Error,
}

/// A number of bytes, with a decimal unit: 500K, 32M, 4GB.
fn size_bytes(text: &str) -> Result<usize, String> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.strip_suffix('B').unwrap_or(&upper);
    let (digits, unit) = match digits.chars().last() {
        Some('K') => (&digits[..digits.len() - 1], 1_000),
        Some('M') => (&digits[..digits.len() - 1], 1_000_000),
        Some('G') => (&digits[..digits.len() - 1], 1_000_000_000),
        _ => (digits, 1_usize),
    };
    let bytes = digits.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "expected a number of bytes, as in 500000, 32M or 4GB".to_owned())
}

/// A positive number that MLX can take as a size.
fn count(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse::<NonZeroI32>().ok().and_then(|number| NonZeroUsize::try_from(number).ok());
    number.ok_or_else(|| format!("expected a whole number from 1 to {}", i32::MAX))
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
    fn counts_are_positive_and_of_31_bits() {
        assert_eq!(count("2147483647").map(usize::from), Ok(2_147_483_647));
        for text in ["0", "-1", "2147483648", "18446744073709551616", "x", ""] {
            assert_eq!(count(text).unwrap_err(), "expected a whole number from 1 to 2147483647");
        }
    }

    #[test]
    fn sizes_have_decimal_units() {
        let sizes = ["7", "7K", "32M", "4GB", "1 gb"].map(|text| size_bytes(text).unwrap());
        assert_eq!(sizes, [7, 7_000, 32_000_000, 4_000_000_000, 1_000_000_000]);
        for text in ["", "M", "-1", "1.5G", "99999999999G", "1T"] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn verbose_is_true_unless_it_says_false() {
        let verbose = |text| truth(text).unwrap();
        assert!(verbose("true") && verbose("0") && !verbose("False") && !verbose("f"));
    }
}
