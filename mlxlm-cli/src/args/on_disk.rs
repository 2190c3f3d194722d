//! Options of the commands about the models on this machine.

use clap::Args;

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print only names, for shell completions.
    #[arg(long, hide = true, conflicts_with = "json")]
    pub(crate) names: bool,
}

/// `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Model folder, GGUF file, hub repository (`org/name`) or `demo` (built in).
    pub(crate) model: String,
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `manage`.
#[derive(Debug, Args)]
pub(crate) struct ManageArgs {
    /// List the models in the cache.
    #[arg(long)]
    pub(crate) scan: bool,
    /// Delete models that match the pattern, after asking.
    #[arg(long)]
    pub(crate) delete: bool,
    /// Part of the names of the models.
    #[arg(long, default_value = "mlx")]
    pub(crate) pattern: String,
}
