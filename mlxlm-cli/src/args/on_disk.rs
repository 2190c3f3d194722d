//! Options of the commands about the models on this machine.

use clap::Args;

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print names only, for completions.
    #[arg(long, hide = true, conflicts_with = "json")]
    pub(crate) names: bool,
}

/// `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A model folder, a GGUF file, a repository of the hub as `org/name`, or `demo`, which is built in.
    pub(crate) model: String,
    /// The branch, tag or commit of a repository.
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
    /// Delete the models whose name contains the pattern, after asking.
    #[arg(long)]
    pub(crate) delete: bool,
    /// What the names contain.
    #[arg(long, default_value = "mlx")]
    pub(crate) pattern: String,
}
