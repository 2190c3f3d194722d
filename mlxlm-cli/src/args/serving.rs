//! Options of the server: models, adapters, and the prompt cache on disk.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;

use super::size_bytes;

/// The models that are served.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServedArgs {
    /// Model folder, GGUF file, hub repository (`org/name`) or `demo`; repeatable, the first is loaded at once.
    #[arg(long)]
    pub(crate) model: Vec<String>,
    /// Branch, tag or commit of a hub repository.
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Folder of an adapter of the first model.
    #[arg(long)]
    pub(crate) adapter_path: Option<PathBuf>,
    /// No effect: code in a model folder is never run.
    #[arg(long)]
    pub(crate) trust_remote_code: bool,
    /// Folder of models that requests may name; repeatable.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) model_dir: Vec<PathBuf>,
    /// Download hub repositories that requests name.
    #[arg(long)]
    pub(crate) allow_download: bool,
    /// Maximum memory of all models, for example 512M or 4GB [default: free memory].
    #[arg(long, value_name = "BYTES", value_parser = size_bytes)]
    pub(crate) memory_budget: Option<usize>,
    /// Idle seconds after which a model is unloaded [default: never].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<NonZeroU64>,
}

/// The prompt cache on disk, which survives a restart.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiskPromptCacheArgs {
    /// Folder of the prompt cache on disk; several servers may share it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) disk_prompt_cache_dir: Option<PathBuf>,
    /// Maximum size of the prompt cache on disk, for example 512M or 4GB.
    #[arg(long, value_name = "BYTES", default_value = "4GB", value_parser = size_bytes)]
    pub(crate) disk_prompt_cache_bytes: usize,
    /// Minimum number of tokens of a prompt that is kept on disk.
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    pub(crate) disk_prompt_cache_min_tokens: usize,
}

/// Adapters that requests may name.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdapterArgs {
    /// Folder of adapters that requests may name; repeatable.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter_dir: Vec<PathBuf>,
}
