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
    AwqArgs, DwqArgs, DynamicQuantArgs, GptqArgs, LearnArgs, QuantizeArgs, ShareArgs, SumType, UploadArgs,
};
pub(crate) use serving::{AdapterArgs, DiskPromptCacheArgs, ServedArgs};
pub(crate) use tuning::{FuseArgs, LoraArgs};

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
    /// Refuse a model that needs more memory than is free, instead of a warning.
    #[arg(long, global = true)]
    pub(crate) strict_memory: bool,
    /// What to do.
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
    /// Load a model and look through its weights for values that are not finite.
    Check(CheckArgs),
    /// Convert a model: quantize, dequantize, change its type, upload it.
    Convert(ConvertArgs),
    /// Fine-tune a model: LoRA, DoRA or its own weights.
    Lora(Box<LoraArgs>),
    /// Put a fine-tune into the weights of its model.
    Fuse(FuseArgs),
    /// Quantize a model as well as a budget of bits, bytes or divergence allows.
    Quantize(QuantizeArgs),
    /// Quantize by AWQ: scale what matters, clip what does not.
    Awq(AwqArgs),
    /// Quantize by GPTQ: columns make up for the rounding of those before.
    Gptq(GptqArgs),
    /// Train the scales of a quantized model until it says what the original says.
    Dwq(DwqArgs),
    /// Quantize with more bits where they matter most.
    #[command(name = "dynamic_quant", alias = "dynamic-quant")]
    DynamicQuant(DynamicQuantArgs),
    /// Upload a model folder to the hub.
    Upload(UploadArgs),
    /// Not supported: copies a model between machines.
    #[command(hide = true)]
    Share(ShareArgs),
    /// Merge fine-tunes of one model into one: slerp, linear, TIES, DARE.
    Merge(MergeArgs),
    /// Measure how well a model predicts texts, and how far it is from another model.
    Perplexity(PerplexityArgs),
    /// Measure a model's answers to the questions of tasks.
    Evaluate(EvaluateArgs),
    /// Convert the adapter of a fine-tune between the layouts of mlx-lm and PEFT.
    Adapter(AdapterLayoutArgs),
    /// Read a prompt once and keep the model's state in a file.
    #[command(name = "cache_prompt", alias = "cache-prompt")]
    CachePrompt(CachePromptArgs),
    /// Measure how fast a model reads and writes.
    Benchmark(BenchmarkArgs),
    /// Answer requests over HTTP, as OpenAI's and Anthropic's APIs do.
    #[command(alias = "serve")]
    Server(Box<ServerArgs>),
    /// List or delete models in the Hugging Face cache.
    Manage(ManageArgs),
    /// List the supported model types, or measure the model of a configuration.
    Models(ModelsArgs),
    /// List the models on this machine.
    List(ListArgs),
    /// Show what is known of a model: parameters, bits, context, memory.
    Show(ShowArgs),
    /// Print completions for a shell.
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

/// Which model, and which fine-tune of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// A model folder, a GGUF file, a repository of the hub as `org/name`, or `demo`, which is built in.
    #[arg(long)]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) variant: VariantArgs,
}

/// Which version of a model, and which fine-tune of it. The default is the model as it is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct VariantArgs {
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder of a LoRA or DoRA adapter.
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
    /// Sample from the most likely tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// XTC: at each token, drop all likely tokens but the least likely of them with this probability.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) xtc_probability: f64,
    /// XTC: a token counts as likely from this probability on.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) xtc_threshold: f64,
}

/// The KV cache.
#[derive(Debug, Clone, Args)]
pub(crate) struct KvArgs {
    /// Keep at most this many tokens in the KV cache.
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
    /// More tokens that end the answer, by name or number.
    #[arg(long = "extra-eos-token", num_args = 1..)]
    pub(crate) extra_eos_token: Vec<String>,
    /// System prompt.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,
    /// The prompt; `-` reads it from standard input.
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
    /// Keep tokens of at least this share of the best one's probability.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f64,
    /// Sample from this many of the most likely tokens only (0: all).
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Keep at least this many tokens, for `--min-p`.
    #[arg(long, default_value_t = 1)]
    pub(crate) min_tokens_to_keep: usize,
    /// Seed of the random choices.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Do not apply the chat template.
    #[arg(long)]
    pub(crate) ignore_chat_template: bool,
    /// Accepted for compatibility; the template of the model is always the default.
    #[arg(long)]
    pub(crate) use_default_chat_template: bool,
    /// Values for the chat template, as a JSON object.
    #[arg(long)]
    pub(crate) chat_template_config: Option<String>,
    /// Print the text as it is generated, and the speed; `false` prints only the text, at the end.
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
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) grammar: GrammarArgs,
    #[command(flatten)]
    pub(crate) snapkv: SnapKvArgs,
    #[command(flatten)]
    pub(crate) many: PromptsArgs,
    /// Not supported (nor `-qa`): activations stay in floating point.
    #[arg(long)]
    pub(crate) quantize_activations: bool,
    /// Not supported: no model here takes images.
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
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Tokens of the prompt to read at once.
    #[arg(long, default_value = "2048")]
    pub(crate) prefill_step_size: NonZeroUsize,
    /// Maximum number of tokens of an answer (-1: no limit).
    #[arg(long, short, default_value_t = 256)]
    pub(crate) max_tokens: i64,
    /// System prompt.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,
    /// Not supported: pipelines need several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
}

/// `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// A model folder, a GGUF file or a repository of the hub.
    #[arg(long, visible_alias = "hf-path", required_unless_present = "gguf_path")]
    pub(crate) model: Option<String>,
    /// A GGUF file; the first part of one that is split.
    #[arg(long, conflicts_with_all = ["model", "revision"])]
    pub(crate) gguf_path: Option<PathBuf>,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder to write; it must not exist yet.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) mlx_path: PathBuf,
    /// Quantize the weights.
    #[arg(long, short)]
    pub(crate) quantize: bool,
    /// Group size [default: depends on `--q-mode`].
    #[arg(long, requires = "quantize")]
    pub(crate) q_group_size: Option<i32>,
    /// Bits per weight [default: depends on `--q-mode`].
    #[arg(long, requires = "quantize")]
    pub(crate) q_bits: Option<i32>,
    /// The format of quantized weights.
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
    /// bfloat16.
    Bfloat16,
    /// Single precision.
    Float32,
}

/// `models`.
#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// A `config.json`, or the folder that has it: count the parameters, caches and bytes of its model, without any weights.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the list as the page `docs/architectures.md`.
    #[arg(long, hide = true, conflicts_with_all = ["json", "config"])]
    pub(crate) markdown: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A model folder, a GGUF file, a repository of the hub as `org/name`, or `demo`, which is built in.
    pub(crate) model: String,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder of a LoRA or DoRA adapter.
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

/// `server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) served: ServedArgs,
    /// More names that requests may call the model.
    #[arg(long, value_delimiter = ',')]
    pub(crate) served_model_name: Vec<String>,
    /// The host to listen on; 0.0.0.0 is reached from other machines.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// The port; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Origins whose pages may ask, `*` for all [default: pages of this machine].
    #[arg(long, value_delimiter = ',')]
    pub(crate) allowed_origins: Option<Vec<String>>,
    /// Names that the server may be asked under, `*` for all [default: those of this machine on a local address, else all].
    #[arg(long, value_delimiter = ',')]
    pub(crate) allowed_hosts: Option<Vec<String>>,
    /// A key that requests have to bring; may be given several times, and in `MLXLM_API_KEY`.
    #[arg(long)]
    pub(crate) api_key: Vec<String>,
    /// A file with such keys, one a line.
    #[arg(long)]
    pub(crate) api_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) speculation: SpeculationArgs,
    #[command(flatten)]
    pub(crate) disk_prompt_cache: DiskPromptCacheArgs,
    #[command(flatten)]
    pub(crate) adapters: AdapterArgs,
    /// The least that is written to the log.
    #[arg(long, default_value = "INFO", ignore_case = true)]
    pub(crate) log_level: LogLevel,
    /// A chat template to use instead of the model's.
    #[arg(long, default_value = "")]
    pub(crate) chat_template: String,
    /// Accepted for compatibility; the template of the model is always the default.
    #[arg(long)]
    pub(crate) use_default_chat_template: bool,
    /// Values for the chat template, as a JSON object.
    #[arg(long, default_value = "{}")]
    pub(crate) chat_template_args: String,
    /// Temperature of requests that name none; 0 always takes the best token.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temp: f64,
    /// Sample from the most likely tokens that together have this probability.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f64,
    /// Sample from this many of the most likely tokens only (0: all).
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Keep tokens of at least this share of the best one's probability.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f64,
    /// Tokens of an answer at most, where the request does not say.
    #[arg(long, short, default_value = "512")]
    pub(crate) max_tokens: NonZeroUsize,
    /// Sequences that are generated at the same time.
    #[arg(long, default_value = "32")]
    pub(crate) decode_concurrency: NonZeroUsize,
    /// Prompts that are read by turns.
    #[arg(long, default_value = "8")]
    pub(crate) prompt_concurrency: NonZeroUsize,
    /// Tokens of a prompt to read at once, hence how long the others wait.
    #[arg(long, default_value = "2048")]
    pub(crate) prefill_step_size: NonZeroUsize,
    /// Sequences whose keys and values are kept for prompts to come.
    #[arg(long, default_value_t = 10)]
    pub(crate) prompt_cache_size: usize,
    /// The most memory of these, as in 512M or 4GB.
    #[arg(long, value_parser = size_bytes)]
    pub(crate) prompt_cache_bytes: Option<usize>,
    #[command(flatten)]
    pub(crate) precision: PrecisionArgs,
    /// Requests that may wait; more are refused.
    #[arg(long, default_value_t = 256)]
    pub(crate) queue_size: usize,
    /// Seconds that a request may take [default: no bound].
    #[arg(long)]
    pub(crate) request_timeout: Option<u64>,
    /// The longest body of a request, as in 32M.
    #[arg(long, default_value = "32M", value_parser = size_bytes)]
    pub(crate) max_body_bytes: usize,
    /// Not supported: pipelines need several machines.
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
    /// What happens.
    #[value(name = "INFO")]
    Info,
    /// What should not be.
    #[value(name = "WARNING")]
    Warning,
    /// What has failed.
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
