//! The options of `lora` and `fuse`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mlxlm_core::weights::gguf::TensorType;
use serde::Serialize;

/// `lora`. The fields have the names of the keys of a configuration file; what is absent is left to that.
#[derive(Debug, Args, Serialize)]
pub(crate) struct LoraArgs {
    /// Model folder, GGUF file or hub repository [default: Qwen/Qwen3-0.6b].
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Train.
    #[arg(long)]
    pub(crate) train: bool,
    /// Folder with `train.jsonl`, `valid.jsonl` and `test.jsonl`, file, or hub dataset [default: mlx-community/WikiSQL].
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// Kind of fine-tuning [default: lora].
    #[arg(long)]
    pub(crate) fine_tune_type: Option<TuneType>,
    /// Optimizer [default: adam].
    #[arg(long)]
    pub(crate) optimizer: Option<OptimizerName>,
    /// Training objective [default: sft].
    #[arg(long)]
    pub(crate) objective: Option<ObjectiveName>,
    /// Beta of DPO, or weight of the odds ratio of ORPO [default: 0.1].
    #[arg(long)]
    pub(crate) beta: Option<f32>,
    /// Leave the prompt out of the loss.
    #[arg(long)]
    pub(crate) mask_prompt: bool,
    /// Number of layers to train, from the last (-1: all) [default: 16].
    #[arg(long, alias = "lora-layers")]
    pub(crate) num_layers: Option<i32>,
    /// Rank of the adapters [default: 8].
    #[arg(long)]
    pub(crate) rank: Option<i32>,
    /// Scale of the adapters, not divided by the rank [default: 20].
    #[arg(long)]
    pub(crate) scale: Option<f32>,
    /// Dropout of the adapters' inputs [default: 0].
    #[arg(long)]
    pub(crate) dropout: Option<f32>,
    /// Layers that get adapters, for example `self_attn.q_proj,self_attn.v_proj` [default: all linear layers].
    #[arg(long, value_delimiter = ',')]
    pub(crate) keys: Option<Vec<String>>,
    /// Rank-stabilized LoRA: multiply the scale by the square root of the rank.
    #[arg(long)]
    pub(crate) rslora: bool,
    /// LoRA+: learning rate of matrix B relative to that of matrix A.
    #[arg(long)]
    pub(crate) lora_plus_ratio: Option<f32>,
    /// Number of rows in a batch [default: 4].
    #[arg(long)]
    pub(crate) batch_size: Option<usize>,
    /// Number of training iterations [default: 1000].
    #[arg(long, alias = "steps")]
    pub(crate) iters: Option<u64>,
    /// Number of batches per validation (-1: all) [default: 25].
    #[arg(long)]
    pub(crate) val_batches: Option<i64>,
    /// Learning rate [default: 1e-5].
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// Maximum gradient norm; larger gradients are scaled down.
    #[arg(long)]
    pub(crate) max_grad_norm: Option<f32>,
    /// Number of iterations between reports [default: 10].
    #[arg(long)]
    pub(crate) steps_per_report: Option<u64>,
    /// Number of iterations between validations [default: 200].
    #[arg(long)]
    pub(crate) steps_per_eval: Option<u64>,
    /// Number of batches to accumulate gradients over [default: 1].
    #[arg(long)]
    pub(crate) grad_accumulation_steps: Option<u64>,
    /// Adapter file to start from, with a new optimizer state.
    #[arg(long)]
    pub(crate) resume_adapter_file: Option<PathBuf>,
    /// Resume the interrupted training in the adapter folder, with the same result.
    #[arg(long, conflicts_with = "resume_adapter_file")]
    pub(crate) resume: bool,
    /// Folder of the adapter (empty: `--test` the model itself) [default: adapters].
    #[arg(long)]
    pub(crate) adapter_path: Option<String>,
    /// Number of iterations between checkpoints [default: 100].
    #[arg(long)]
    pub(crate) save_every: Option<u64>,
    /// Measure the loss on the test set at the end.
    #[arg(long)]
    pub(crate) test: bool,
    /// Number of batches of the test (-1: all) [default: 500].
    #[arg(long)]
    pub(crate) test_batches: Option<i64>,
    /// Maximum number of tokens of a row; the rest is cut [default: 2048].
    #[arg(long)]
    pub(crate) max_seq_length: Option<usize>,
    /// Pack several texts into each row, masked from each other.
    #[arg(long)]
    pub(crate) packing: bool,
    /// YAML file with these and further settings; options override it.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// Recompute activations for the gradient, to save memory.
    #[arg(long)]
    pub(crate) grad_checkpoint: bool,
    /// Release freed memory above this size, for example 1GB.
    #[arg(long)]
    pub(crate) clear_cache_threshold: Option<String>,
    /// Also write logs for `tensorboard`.
    #[arg(long)]
    pub(crate) report_to: Option<String>,
    /// Not supported: project of wandb or swanlab.
    #[arg(long)]
    pub(crate) project_name: Option<String>,
    /// Random seed [default: 0].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// No effect: code in a model folder is never run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// `--fine-tune-type`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TuneType {
    /// Low-rank adapters.
    Lora,
    /// Low-rank adapters with magnitudes.
    Dora,
    /// All weights.
    Full,
}

/// `--optimizer`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OptimizerName {
    /// Adam.
    Adam,
    /// Adam with weight decay.
    Adamw,
    /// Orthogonalized momentum.
    Muon,
    /// Stochastic gradient descent.
    Sgd,
    /// Adam with less memory.
    Adafactor,
}

/// `--objective`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ObjectiveName {
    /// Supervised fine-tuning: predict the next token.
    Sft,
    /// Direct preference optimization, against the original model.
    Dpo,
    /// Odds-ratio preference optimization.
    Orpo,
}

/// `fuse`.
#[derive(Debug, Args)]
pub(crate) struct FuseArgs {
    /// Model folder, GGUF file or hub repository (`org/name`).
    #[arg(long, default_value = "mlx_model")]
    pub(crate) model: String,
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Output folder; it must not exist.
    #[arg(long, default_value = "fused_model")]
    pub(crate) save_path: PathBuf,
    /// Folder of the adapter.
    #[arg(long, default_value = "adapters")]
    pub(crate) adapter_path: PathBuf,
    /// Upload the result to this hub repository.
    #[arg(long)]
    pub(crate) upload_repo: Option<String>,
    /// Dequantize the weights.
    #[arg(long, alias = "de-quantize")]
    pub(crate) dequantize: bool,
    /// Also write a GGUF file.
    #[arg(long)]
    pub(crate) export_gguf: bool,
    /// Name of the GGUF file in the output folder.
    #[arg(long, default_value = "ggml-model-f16.gguf")]
    pub(crate) gguf_path: PathBuf,
    /// Type of the matrices in the GGUF file.
    #[arg(long, value_enum, default_value_t = GgufType::F16)]
    pub(crate) gguf_type: GgufType,
    /// No effect: code in a model folder is never run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// The type of matrices in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GgufType {
    /// IEEE half precision.
    F16,
    /// 8 bits in blocks of 32.
    #[value(name = "q8_0")]
    Q8,
    /// 4 bits in blocks of 32.
    #[value(name = "q4_0")]
    Q4,
}

impl GgufType {
    /// As the writer calls it.
    pub(crate) fn tensors(self) -> TensorType {
        match self {
            Self::F16 => TensorType::F16,
            Self::Q8 => TensorType::Q8_0,
            Self::Q4 => TensorType::Q4_0,
        }
    }
}
