//! Options of the server beside those of every command: what it keeps, and which models and adapters may come and go.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;

use super::size_bytes;

/// The models that are served.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServedArgs {
    /// A model folder, a GGUF file, a repository of the hub as `org/name`, or `demo`, which is built in. Given several times, the first
    /// is loaded at once, and the others when requests ask for them.
    #[arg(long)]
    pub(crate) model: Vec<String>,
    /// The branch, tag or commit of a repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// The folder of a fine-tune of the first model.
    #[arg(long)]
    pub(crate) adapter_path: Option<PathBuf>,
    /// Accepted for compatibility: nothing of a model folder is ever run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
    /// A folder whose folders are models that requests may ask for by name; may be given several times.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) model_dir: Vec<PathBuf>,
    /// Let requests ask for repositories of the hub, which are downloaded.
    #[arg(long)]
    pub(crate) allow_download: bool,
    /// The most memory of all models together, as in 512M or 4GB [default: what the system has left].
    #[arg(long, value_name = "BYTES", value_parser = size_bytes)]
    pub(crate) memory_budget: Option<usize>,
    /// Seconds without work after which a model leaves memory [default: never].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<NonZeroU64>,
}

/// Prompts that were read, kept beyond the life of the server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt cache on disk")]
pub(crate) struct DiskPromptCacheArgs {
    /// A folder for prompts that were read; several servers may share it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) disk_prompt_cache_dir: Option<PathBuf>,
    /// The most that its files take, as in 512M or 4GB.
    #[arg(long, value_name = "BYTES", default_value = "4GB", value_parser = size_bytes)]
    pub(crate) disk_prompt_cache_bytes: usize,
    /// The fewest tokens of a text that is kept there.
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub(crate) disk_prompt_cache_min_tokens: usize,
}

/// Adapters that come and go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Adapters")]
pub(crate) struct AdapterArgs {
    /// A folder whose folders are adapters that requests may ask for by name; may be given several times.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter_dir: Vec<PathBuf>,
}
