//! The options of `merge` and `adapter`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// A YAML file that says what is merged and how, as mergekit's.
    #[arg(long, short, conflicts_with_all = ["models", "method", "base", "weights", "density", "t", "no_normalize"])]
    pub(crate) config: Option<PathBuf>,
    /// The models: folders or repositories.
    #[arg(long, num_args = 1.., required_unless_present = "config")]
    pub(crate) models: Vec<String>,
    /// How they are put together.
    #[arg(long, value_enum, default_value = "slerp")]
    pub(crate) method: MergeMethod,
    /// The model that the others are fine-tunes of, for TIES and DARE.
    #[arg(long)]
    pub(crate) base: Option<String>,
    /// The weight of each model [default: 1].
    #[arg(long, num_args = 1.., allow_negative_numbers = true)]
    pub(crate) weights: Vec<f64>,
    /// The share of the differences that TIES and DARE keep.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) density: f64,
    /// Where slerp stands between the two models, from 0 to 1.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) t: f64,
    /// Do not divide by the sum of the weights.
    #[arg(long)]
    pub(crate) no_normalize: bool,
    /// What DARE drops is drawn from this.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The folder of the merged model.
    #[arg(long, default_value = "mlx_merged_model")]
    pub(crate) mlx_path: PathBuf,
    /// Upload the merged model to this repository of the hub.
    #[arg(long)]
    pub(crate) upload_repo: Option<String>,
}

/// `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MergeMethod {
    /// Along the arc between two models.
    Slerp,
    /// The weighted mean.
    Linear,
    /// Differences from the base, trimmed, of the sign that prevails.
    Ties,
    /// Differences from the base, dropped at random and scaled up.
    #[value(name = "dare_linear")]
    DareLinear,
    /// The same, of the sign that prevails.
    #[value(name = "dare_ties", alias = "dare")]
    DareTies,
}

/// `adapter`.
#[derive(Debug, Args)]
pub(crate) struct AdapterLayoutArgs {
    /// The folder of the adapter, in either layout.
    #[arg(long)]
    pub(crate) adapter_path: PathBuf,
    /// The folder that is written.
    #[arg(long)]
    pub(crate) save_path: PathBuf,
    /// The layout that is written.
    #[arg(long, value_enum)]
    pub(crate) to: AdapterFormat,
    /// The model that the adapter belongs to, which PEFT's layout names.
    #[arg(long)]
    pub(crate) base_model: Option<String>,
}

/// `--to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AdapterFormat {
    /// That of mlx-lm and of this program.
    Mlx,
    /// That of Hugging Face's PEFT.
    Peft,
}
