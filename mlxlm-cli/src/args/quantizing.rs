//! Options of the commands that learn how to quantize, and of `upload`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

/// Where a quantized model goes, and what it is calibrated with.
#[derive(Debug, Clone, Args)]
pub(crate) struct LearnArgs {
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder to write; it must not exist yet.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) mlx_path: PathBuf,
    /// A file of text, or of JSON objects with `text`, `messages` or `prompt`, one a line, in `.jsonl` [default: texts that are
    /// built in].
    #[arg(long)]
    pub(crate) data_path: Option<PathBuf>,
    /// Seed of the order of samples.
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u64,
    /// Accepted for compatibility: nothing of a model folder is ever run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// `dynamic_quant`.
#[derive(Debug, Args)]
pub(crate) struct DynamicQuantArgs {
    /// A model folder, a GGUF file or a repository of the hub.
    #[arg(long, short, default_value = "Qwen/Qwen3-0.6B-base")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// A file of sensitivities that this command wrote before.
    #[arg(long)]
    pub(crate) sensitivities: Option<PathBuf>,
    /// Bits for each weight, all scales and biases included.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) target_bpw: f64,
    /// Bits of most leaves.
    #[arg(long, default_value_t = 4)]
    pub(crate) low_bits: i32,
    /// Weights that share a scale in those.
    #[arg(long, default_value_t = 64)]
    pub(crate) low_group_size: i32,
    /// Bits of the most sensitive leaves.
    #[arg(long, default_value_t = 5)]
    pub(crate) high_bits: i32,
    /// Weights that share a scale in those.
    #[arg(long, default_value_t = 64)]
    pub(crate) high_group_size: i32,
    /// The most samples; -1 for all.
    #[arg(long, default_value_t = -1)]
    pub(crate) num_samples: i64,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// Print the perplexity before and after.
    #[arg(long)]
    pub(crate) report_ppl: bool,
    /// Not supported: gradients take the memory that they take.
    #[arg(long)]
    pub(crate) grad_checkpoint: bool,
    /// The type in which gradients are added up.
    #[arg(long, default_value = "float32")]
    pub(crate) accumulation_dtype: SumType,
}

/// `--accumulation-dtype`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SumType {
    /// Single precision.
    Float32,
    /// Half the memory.
    Bfloat16,
}

/// `gptq`.
#[derive(Debug, Args)]
pub(crate) struct GptqArgs {
    /// A model folder, a GGUF file or a repository of the hub.
    #[arg(long, short, default_value = "Qwen/Qwen3-0.6B-base")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Bits of linear maps and experts.
    #[arg(long, default_value_t = 4)]
    pub(crate) bits: i32,
    /// Weights that share a scale in those.
    #[arg(long, default_value_t = 64)]
    pub(crate) group_size: i32,
    /// Bits of everything else, tables above all.
    #[arg(long, default_value_t = 6)]
    pub(crate) fallback_bits: i32,
    /// Weights that share a scale in that.
    #[arg(long, default_value_t = 64)]
    pub(crate) fallback_group_size: i32,
    /// The most samples; -1 for all.
    #[arg(long, default_value_t = -1)]
    pub(crate) num_samples: i64,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
}

/// `awq`.
#[derive(Debug, Args)]
pub(crate) struct AwqArgs {
    /// A model folder, a GGUF file or a repository of the hub.
    #[arg(long, short, default_value = "mlx-community/Qwen2.5-7B-Instruct-bf16")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Bits of everything in the blocks.
    #[arg(long, default_value_t = 4)]
    pub(crate) bits: i32,
    /// Weights that share a scale in those.
    #[arg(long, default_value_t = 64)]
    pub(crate) group_size: i32,
    /// Bits of tables and heads.
    #[arg(long, default_value_t = 4)]
    pub(crate) embed_bits: i32,
    /// Weights that share a scale in those.
    #[arg(long, default_value_t = 32)]
    pub(crate) embed_group_size: i32,
    /// The most samples; -1 for all.
    #[arg(long, default_value_t = 128)]
    pub(crate) num_samples: i64,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// How many strengths of scaling are tried.
    #[arg(long, default_value = "20")]
    pub(crate) n_grid: NonZeroUsize,
}

/// `dwq`.
#[derive(Debug, Args)]
pub(crate) struct DwqArgs {
    /// The model that teaches; quantized, it is also the student, if no other is named.
    #[arg(long, short, required = true)]
    pub(crate) model: String,
    /// A quantized model that is made better.
    #[arg(long)]
    pub(crate) quantized_model: Option<String>,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Bits of the student.
    #[arg(long, default_value_t = 4)]
    pub(crate) bits: i32,
    /// Weights that share a scale in the student.
    #[arg(long, default_value_t = 64)]
    pub(crate) group_size: i32,
    /// The most samples to train with.
    #[arg(long, default_value_t = 2048)]
    pub(crate) num_samples: usize,
    /// The most tokens of a sample.
    #[arg(long, default_value_t = 1025)]
    pub(crate) max_seq_length: usize,
    /// The rate of Adam.
    #[arg(long, default_value_t = 1e-6)]
    pub(crate) learning_rate: f32,
    /// Samples of a step.
    #[arg(long, default_value_t = 4)]
    pub(crate) batch_size: usize,
    /// Not supported: gradients take the memory that they take.
    #[arg(long)]
    pub(crate) grad_checkpoint: bool,
    /// A folder for what the teacher says; taken from there if it is there.
    #[arg(long)]
    pub(crate) target_dir: Option<PathBuf>,
    /// End when that is written.
    #[arg(long, requires = "target_dir")]
    pub(crate) targets_only: bool,
    /// A file that keeps how far the training came, and that a later run goes on from.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Not supported: pipelines need several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
}

/// `quantize`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("goal").required(true))]
pub(crate) struct QuantizeArgs {
    /// A model folder, a GGUF file or a repository of the hub.
    #[arg(long, short, required = true)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// The most bits for each weight, all scales and biases included.
    #[arg(long, group = "goal")]
    pub(crate) target_bpw: Option<f64>,
    /// The most bytes of weights, as in 500M or 4GB.
    #[arg(long, group = "goal", value_parser = super::size_bytes)]
    pub(crate) target_bytes: Option<usize>,
    /// The largest divergence from the original, in nats; as few bytes as that takes.
    #[arg(long, group = "goal")]
    pub(crate) max_kl: Option<f64>,
    /// The most samples; -1 for all.
    #[arg(long, default_value_t = 128)]
    pub(crate) num_samples: i64,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// Samples that each leaf is measured with.
    #[arg(long, default_value = "4")]
    pub(crate) measure_samples: NonZeroUsize,
    /// How often the scales are trained with all samples; 0 leaves them.
    #[arg(long, default_value_t = 1)]
    pub(crate) epochs: usize,
    /// The rate at which they are trained.
    #[arg(long, default_value_t = 2e-5)]
    pub(crate) learning_rate: f32,
    /// Samples of a training step.
    #[arg(long, default_value_t = 2)]
    pub(crate) batch_size: usize,
}

/// `upload`.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// The model folder.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) path: PathBuf,
    /// The repository of the hub.
    #[arg(long, required = true)]
    pub(crate) upload_repo: String,
}

/// `share`, which is refused.
#[derive(Debug, Args)]
pub(crate) struct ShareArgs {
    /// Whatever is asked of it.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    pub(crate) rest: Vec<String>,
}
