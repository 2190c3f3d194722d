//! Options of the commands that learn how to quantize, and of `upload`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

/// Where a quantized model is written, and what it is calibrated with.
#[derive(Debug, Clone, Args)]
pub(crate) struct LearnArgs {
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Output folder; it must not exist.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) mlx_path: PathBuf,
    /// Calibration data: a text file, or JSON Lines with `text`, `messages` or `prompt` [default: built-in texts].
    #[arg(long)]
    pub(crate) data_path: Option<PathBuf>,
    /// Seed of the order of the samples.
    #[arg(long, default_value_t = 123)]
    pub(crate) seed: u64,
    /// No effect: code in a model folder is never run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// `dynamic_quant`.
#[derive(Debug, Args)]
pub(crate) struct DynamicQuantArgs {
    /// Model folder, GGUF file or hub repository (`org/name`).
    #[arg(long, short, default_value = "Qwen/Qwen3-0.6B-base")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Sensitivities written by an earlier run.
    #[arg(long)]
    pub(crate) sensitivities: Option<PathBuf>,
    /// Folder for checkpoints, removed at the end; the same command resumes from it.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Target bits per weight, including scales and biases.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) target_bpw: f64,
    /// Bits of most matrices.
    #[arg(long, default_value_t = 4)]
    pub(crate) low_bits: i32,
    /// Group size of most matrices.
    #[arg(long, default_value_t = 64)]
    pub(crate) low_group_size: i32,
    /// Bits of the most sensitive matrices.
    #[arg(long, default_value_t = 5)]
    pub(crate) high_bits: i32,
    /// Group size of the most sensitive matrices.
    #[arg(long, default_value_t = 64)]
    pub(crate) high_group_size: i32,
    /// Maximum number of samples (-1: all).
    #[arg(long, default_value_t = -1)]
    pub(crate) num_samples: i64,
    /// Number of tokens per sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// Print the perplexity before and after quantizing.
    #[arg(long)]
    pub(crate) report_ppl: bool,
    /// No effect: activations are always recomputed, block by block.
    #[arg(long)]
    pub(crate) grad_checkpoint: bool,
    /// No effect: gradients are not summed.
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
    /// Model folder, GGUF file or hub repository (`org/name`).
    #[arg(long, short, default_value = "Qwen/Qwen3-0.6B-base")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Bits of linear layers and experts.
    #[arg(long, default_value_t = 4)]
    pub(crate) bits: i32,
    /// Group size of linear layers and experts.
    #[arg(long, default_value_t = 64)]
    pub(crate) group_size: i32,
    /// Bits of other weights, such as embeddings.
    #[arg(long, default_value_t = 6)]
    pub(crate) fallback_bits: i32,
    /// Group size of other weights.
    #[arg(long, default_value_t = 64)]
    pub(crate) fallback_group_size: i32,
    /// Do exactly what Python mlx-lm does: no search for scales, and embeddings are only rounded.
    #[arg(long)]
    pub(crate) plain: bool,
    /// Folder for checkpoints, removed at the end; the same command resumes from it.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Maximum number of samples (-1: all).
    #[arg(long, default_value_t = -1)]
    pub(crate) num_samples: i64,
    /// Number of tokens per sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
}

/// `awq`.
#[derive(Debug, Args)]
pub(crate) struct AwqArgs {
    /// Model folder, GGUF file or hub repository (`org/name`).
    #[arg(long, short, default_value = "mlx-community/Qwen2.5-7B-Instruct-bf16")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Bits of weights in the blocks.
    #[arg(long, default_value_t = 4)]
    pub(crate) bits: i32,
    /// Group size of weights in the blocks.
    #[arg(long, default_value_t = 64)]
    pub(crate) group_size: i32,
    /// Bits of embeddings and heads.
    #[arg(long, default_value_t = 4)]
    pub(crate) embed_bits: i32,
    /// Group size of embeddings and heads.
    #[arg(long, default_value_t = 32)]
    pub(crate) embed_group_size: i32,
    /// Maximum number of samples (-1: all).
    #[arg(long, default_value_t = 128)]
    pub(crate) num_samples: i64,
    /// Number of tokens per sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// Number of scaling strengths to try.
    #[arg(long, default_value = "20")]
    pub(crate) n_grid: NonZeroUsize,
    /// Folder for checkpoints, removed at the end; the same command resumes from it.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// `dwq`.
#[derive(Debug, Args)]
pub(crate) struct DwqArgs {
    /// Teacher model; also quantized as the student unless `--quantized-model` is given.
    #[arg(long, short, required = true)]
    pub(crate) model: String,
    /// Quantized model to improve (the student).
    #[arg(long)]
    pub(crate) quantized_model: Option<String>,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Bits of the quantized student.
    #[arg(long, default_value_t = 4)]
    pub(crate) bits: i32,
    /// Group size of the quantized student.
    #[arg(long, default_value_t = 64)]
    pub(crate) group_size: i32,
    /// Maximum number of training samples.
    #[arg(long, default_value_t = 2048)]
    pub(crate) num_samples: usize,
    /// Maximum number of tokens per sample.
    #[arg(long, default_value_t = 1025)]
    pub(crate) max_seq_length: usize,
    /// Learning rate of Adam.
    #[arg(long, default_value_t = 1e-6)]
    pub(crate) learning_rate: f32,
    /// Learning rate in quantization steps of each group, instead of `--learning-rate`; for example 0.002.
    #[arg(long, conflicts_with = "learning_rate")]
    pub(crate) relative_learning_rate: Option<f32>,
    /// Number of samples per step.
    #[arg(long, default_value_t = 4)]
    pub(crate) batch_size: usize,
    /// No effect: activations are always recomputed, block by block.
    #[arg(long)]
    pub(crate) grad_checkpoint: bool,
    /// Folder that caches the teacher's outputs.
    #[arg(long)]
    pub(crate) target_dir: Option<PathBuf>,
    /// Write the teacher's outputs and stop.
    #[arg(long, requires = "target_dir")]
    pub(crate) targets_only: bool,
    /// Checkpoint file; a later run resumes from it.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Not supported: split the model over several machines.
    #[arg(long)]
    pub(crate) pipeline: bool,
}

/// `quantize`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("goal").required(true))]
pub(crate) struct QuantizeArgs {
    /// Model folder, GGUF file or hub repository (`org/name`).
    #[arg(long, short, required = true)]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) learn: LearnArgs,
    /// Maximum bits per weight, including scales and biases.
    #[arg(long, group = "goal")]
    pub(crate) target_bpw: Option<f64>,
    /// Maximum size of the weights, for example 500M or 4GB.
    #[arg(long, group = "goal", value_name = "BYTES", value_parser = super::size_bytes)]
    pub(crate) target_bytes: Option<usize>,
    /// Maximum KL divergence from the original, in nats; the size is minimized.
    #[arg(long, group = "goal")]
    pub(crate) max_kl: Option<f64>,
    /// Maximum number of samples (-1: all).
    #[arg(long, default_value_t = 128)]
    pub(crate) num_samples: i64,
    /// Number of tokens per sample.
    #[arg(long, default_value_t = 512)]
    pub(crate) sequence_length: usize,
    /// Number of samples to measure each matrix with.
    #[arg(long, default_value = "1")]
    pub(crate) measure_samples: NonZeroUsize,
    /// Number of epochs to train the scales for (0: do not train).
    #[arg(long, default_value_t = 1)]
    pub(crate) epochs: usize,
    /// Learning rate of the scales, in quantization steps of each group.
    #[arg(long, default_value_t = 0.002)]
    pub(crate) relative_learning_rate: f32,
    /// Number of samples per training step.
    #[arg(long, default_value_t = 2)]
    pub(crate) batch_size: usize,
    /// Folder for checkpoints, removed at the end; the same command resumes from it.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// `upload`.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// Model folder.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) path: PathBuf,
    /// Hub repository (`org/name`).
    #[arg(long, required = true)]
    pub(crate) upload_repo: String,
}

/// `share`, which is refused.
#[derive(Debug, Args)]
pub(crate) struct ShareArgs {
    /// Ignored.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    pub(crate) rest: Vec<String>,
}
