//! The options of `merge` and `adapter`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// YAML file in the format of mergekit.
    #[arg(long, short, conflicts_with_all = ["models", "method", "base", "weights", "density", "t", "no_normalize"])]
    pub(crate) config: Option<PathBuf>,
    /// Models to merge: folders or hub repositories.
    #[arg(long, num_args = 1.., required_unless_present = "config")]
    pub(crate) models: Vec<String>,
    /// Merge method.
    #[arg(long, value_enum, default_value = "slerp")]
    pub(crate) method: MergeMethod,
    /// Base model of the fine-tunes, for TIES and DARE.
    #[arg(long)]
    pub(crate) base: Option<String>,
    /// Weight of each model [default: 1].
    #[arg(long, num_args = 1.., allow_negative_numbers = true)]
    pub(crate) weights: Vec<f64>,
    /// Share of the differences that TIES and DARE keep.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) density: f64,
    /// Position of slerp between the two models, from 0 to 1.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) t: f64,
    /// Do not normalize the weights to a sum of 1.
    #[arg(long)]
    pub(crate) no_normalize: bool,
    /// Random seed of DARE.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Output folder; it must not exist.
    #[arg(long, default_value = "mlx_merged_model")]
    pub(crate) mlx_path: PathBuf,
    /// Upload the result to this hub repository.
    #[arg(long)]
    pub(crate) upload_repo: Option<String>,
}

/// `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MergeMethod {
    /// Spherical interpolation between two models.
    Slerp,
    /// Weighted mean.
    Linear,
    /// Trimmed differences from the base; the majority sign wins.
    Ties,
    /// Randomly dropped differences from the base, scaled up.
    #[value(name = "dare_linear")]
    DareLinear,
    /// The same; the majority sign wins.
    #[value(name = "dare_ties", alias = "dare")]
    DareTies,
}

/// `adapter`.
#[derive(Debug, Args)]
pub(crate) struct AdapterLayoutArgs {
    /// Folder of the adapter, in either format.
    #[arg(long)]
    pub(crate) adapter_path: PathBuf,
    /// Output folder.
    #[arg(long)]
    pub(crate) save_path: PathBuf,
    /// Output format.
    #[arg(long, value_enum)]
    pub(crate) to: AdapterFormat,
    /// Base model to name in PEFT's format.
    #[arg(long)]
    pub(crate) base_model: Option<String>,
}

/// `--to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AdapterFormat {
    /// mlx-lm and mlxlm.
    Mlx,
    /// Hugging Face PEFT.
    Peft,
}
