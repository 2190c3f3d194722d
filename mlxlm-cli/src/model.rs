//! From the name of a model to a model in memory, with what the user should see on the way.

use std::path::{Path, PathBuf};

use mlxlm_core::device::WiredLimit;
use mlxlm_core::hub::{Hub, HubOptions, RepoId};
use mlxlm_core::nn;
use mlxlm_core::text::TokenizerOptions;
use mlxlm_models::{LoadOptions, Loaded, load};

use crate::args::ModelArgs;
use crate::failure::Result;
use crate::output::warn;
use crate::progress;

/// What `--trust-remote-code` does.
pub(crate) const CODE_IS_NEVER_RUN: &str =
    "`--trust-remote-code` changes nothing, because no code of a model is ever run";

/// Where a model lies, and where it is from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) folder: PathBuf,
    /// The repository that it was downloaded from; none for a folder of the user's own and what is built in.
    pub(crate) repo: Option<RepoId>,
}

/// Finds a model that is built in or on disk, or downloads it.
pub(crate) fn resolve(name: &str, revision: Option<&str>) -> Result<Source> {
    if let Some(folder) = mlxlm_models::demo::folder(name)? {
        return Ok(Source { folder, repo: None });
    }
    let folder = hub()?.resolve(name, revision, &progress::bars())?;
    let repo = if Path::new(name).is_dir() { None } else { RepoId::parse(name).ok() };
    Ok(Source { folder, repo })
}

/// The hub, as the environment describes it.
pub(crate) fn hub() -> Result<Hub> {
    Ok(Hub::new(HubOptions::from_env()?))
}

/// Loads the model `name` with what the arguments lay over it; warnings go to standard error.
pub(crate) fn load_model(name: &str, args: &ModelArgs, tokenizer: TokenizerOptions) -> Result<Loaded> {
    if args.trust_remote_code {
        warn(CODE_IS_NEVER_RUN);
    }
    let Source { folder, .. } = resolve(name, args.revision.as_deref())?;
    let mut loaded = load(folder, &LoadOptions { adapter_path: args.adapter_path.clone(), tokenizer })?;
    let (_, bytes) = nn::size(&mut *loaded.model);
    loaded.warnings.iter().chain(&WiredLimit::warning(bytes)).for_each(warn);
    Ok(loaded)
}
