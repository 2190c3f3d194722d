//! The options of `lora` and `fuse`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mlxlm_core::weights::gguf::TensorType;
use serde::Serialize;

/// `lora`. The fields have the names of the keys of a configuration file; what is absent is left to that.
#[derive(Debug, Args, Serialize)]
pub(crate) struct LoraArgs {
    /// A model folder, a GGUF file or a repository of the hub [default: Qwen/Qwen3-0.6b].
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Train.
    #[arg(long)]
    pub(crate) train: bool,
    /// A folder with `train.jsonl`, `valid.jsonl` and `test.jsonl`, a file, or a dataset of the hub [default: mlx-community/WikiSQL].
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// What is trained [default: lora].
    #[arg(long)]
    pub(crate) fine_tune_type: Option<TuneType>,
    /// The optimizer [default: adam].
    #[arg(long)]
    pub(crate) optimizer: Option<OptimizerName>,
    /// What is minimized [default: sft].
    #[arg(long)]
    pub(crate) objective: Option<ObjectiveName>,
    /// DPO: how strongly the model is held to what it was; ORPO: the weight of the odds [default: 0.1].
    #[arg(long)]
    pub(crate) beta: Option<f32>,
    /// Read prompts, but do not learn them.
    #[arg(long)]
    pub(crate) mask_prompt: bool,
    /// How many of the last blocks are trained, -1 for all [default: 16].
    #[arg(long, alias = "lora-layers")]
    pub(crate) num_layers: Option<i32>,
    /// The rank of adapters [default: 8].
    #[arg(long)]
    pub(crate) rank: Option<i32>,
    /// The factor of what adapters add, not divided by the rank [default: 20].
    #[arg(long)]
    pub(crate) scale: Option<f32>,
    /// The share of their inputs that adapters drop while they are trained [default: 0].
    #[arg(long)]
    pub(crate) dropout: Option<f32>,
    /// The leaves that get adapters, as `self_attn.q_proj,self_attn.v_proj` [default: all].
    #[arg(long, value_delimiter = ',')]
    pub(crate) keys: Option<Vec<String>>,
    /// Rank-stabilized LoRA: multiply the scale by the square root of the rank.
    #[arg(long)]
    pub(crate) rslora: bool,
    /// LoRA+: how many times faster the second factor of an adapter learns than the first.
    #[arg(long)]
    pub(crate) lora_plus_ratio: Option<f32>,
    /// Rows in a batch [default: 4].
    #[arg(long)]
    pub(crate) batch_size: Option<usize>,
    /// Batches to learn from [default: 1000].
    #[arg(long, alias = "steps")]
    pub(crate) iters: Option<u64>,
    /// Batches of a validation, -1 for all [default: 25].
    #[arg(long)]
    pub(crate) val_batches: Option<i64>,
    /// The learning rate [default: 1e-5].
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// The largest norm of a step's gradient; longer ones are scaled down.
    #[arg(long)]
    pub(crate) max_grad_norm: Option<f32>,
    /// Iterations between reports [default: 10].
    #[arg(long)]
    pub(crate) steps_per_report: Option<u64>,
    /// Iterations between validations [default: 200].
    #[arg(long)]
    pub(crate) steps_per_eval: Option<u64>,
    /// Batches whose gradients make one step [default: 1].
    #[arg(long)]
    pub(crate) grad_accumulation_steps: Option<u64>,
    /// An adapter file to begin with; the optimizer begins anew.
    #[arg(long)]
    pub(crate) resume_adapter_file: Option<PathBuf>,
    /// Go on where the training in the adapter folder was stopped, as if it had not been.
    #[arg(long, conflicts_with = "resume_adapter_file")]
    pub(crate) resume: bool,
    /// The folder of the adapters; empty for a `--test` of the model itself [default: adapters].
    #[arg(long)]
    pub(crate) adapter_path: Option<String>,
    /// Iterations between checkpoints [default: 100].
    #[arg(long)]
    pub(crate) save_every: Option<u64>,
    /// Measure the loss on the test rows at the end.
    #[arg(long)]
    pub(crate) test: bool,
    /// Batches of the test, -1 for all [default: 500].
    #[arg(long)]
    pub(crate) test_batches: Option<i64>,
    /// Tokens that are read of a row [default: 2048].
    #[arg(long)]
    pub(crate) max_seq_length: Option<usize>,
    /// A YAML file with any of these settings, and more; options win over it.
    #[arg(long, short)]
    pub(crate) config: Option<PathBuf>,
    /// Compute the activations of a block again for its gradient, to save memory.
    #[arg(long)]
    pub(crate) grad_checkpoint: bool,
    /// Give freed memory back once it is more than this, as `1GB`.
    #[arg(long)]
    pub(crate) clear_cache_threshold: Option<String>,
    /// `tensorboard`: write a file of events for it, too.
    #[arg(long)]
    pub(crate) report_to: Option<String>,
    /// Not supported: only wandb and swanlab have projects.
    #[arg(long)]
    pub(crate) project_name: Option<String>,
    /// Seed of adapters, batches and dropout [default: 0].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Accepted for compatibility: nothing of a model folder is ever run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// `--fine-tune-type`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TuneType {
    /// Adapters of low rank.
    Lora,
    /// Adapters with magnitudes.
    Dora,
    /// The weights themselves.
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
    /// Momentum made orthogonal.
    Muon,
    /// Stochastic gradient descent.
    Sgd,
    /// Adam with less to remember.
    Adafactor,
}

/// `--objective`.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ObjectiveName {
    /// The next token.
    Sft,
    /// Preferences, against the model as it was.
    Dpo,
    /// Preferences by odds.
    Orpo,
}

/// `fuse`.
#[derive(Debug, Args)]
pub(crate) struct FuseArgs {
    /// A model folder, a GGUF file or a repository of the hub.
    #[arg(long, default_value = "mlx_model")]
    pub(crate) model: String,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder to write; it must not exist yet.
    #[arg(long, default_value = "fused_model")]
    pub(crate) save_path: PathBuf,
    /// The folder of the adapters.
    #[arg(long, default_value = "adapters")]
    pub(crate) adapter_path: PathBuf,
    /// The repository of the hub to upload the result to.
    #[arg(long)]
    pub(crate) upload_repo: Option<String>,
    /// Unpack quantized weights.
    #[arg(long, alias = "de-quantize")]
    pub(crate) dequantize: bool,
    /// Write a GGUF file, too.
    #[arg(long)]
    pub(crate) export_gguf: bool,
    /// Its name in the folder.
    #[arg(long, default_value = "ggml-model-f16.gguf")]
    pub(crate) gguf_path: PathBuf,
    /// The type of its matrices.
    #[arg(long, value_enum, default_value_t = GgufType::F16)]
    pub(crate) gguf_type: GgufType,
    /// Accepted for compatibility: nothing of a model folder is ever run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
}

/// What matrices are in a GGUF file that is written.
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
