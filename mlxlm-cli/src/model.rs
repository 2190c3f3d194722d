//! From the name of a model to a model in memory, with what the user should see on the way.

use std::path::PathBuf;

use mlxlm_core::device::WiredLimit;
use mlxlm_core::hub::{Hub, HubOptions};
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

/// The folder of a model that is built in, downloaded or on disk.
pub(crate) fn resolve(name: &str, revision: Option<&str>) -> Result<PathBuf> {
    if let Some(folder) = mlxlm_models::demo::folder(name)? {
        return Ok(folder);
    }
    Ok(hub()?.resolve(name, revision, &progress::bars())?)
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
    let folder = resolve(name, args.revision.as_deref())?;
    let mut loaded = load(folder, &LoadOptions { adapter_path: args.adapter_path.clone(), tokenizer })?;
    let (_, bytes) = nn::size(&mut *loaded.model);
    loaded.warnings.iter().chain(&WiredLimit::warning(bytes as u64)).for_each(warn);
    Ok(loaded)
}
