//! From the name of a model to a model in memory, with what the user should see on the way.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlxlm_core::device::WiredLimit;
use mlxlm_core::hub::{Hub, HubError, HubOptions, RepoId};
use mlxlm_core::text::TokenizerOptions;
use mlxlm_core::{io, nn};
use mlxlm_models::{Architecture, LoadOptions, Loaded, ModelConfig, load};

use crate::args::{DEFAULT_MODEL, VariantArgs};
use crate::failure::{Failure, Result};
use crate::output::{note, warn};
use crate::progress::Busy;
use crate::settings::Settings;
use crate::{memory, progress, terminal};

/// What `--trust-remote-code` does.
pub(crate) const CODE_IS_NEVER_RUN: &str = "`--trust-remote-code` has no effect: code in a model folder is never run";

/// Where a model lies, in a folder or a GGUF file, and where it is from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) folder: PathBuf,
    /// The repository that it was downloaded from; none for a folder of the user's own and what is built in.
    pub(crate) repo: Option<RepoId>,
}

/// Finds a model that is built in or on disk, or downloads it.
pub(crate) fn resolve(name: &str, revision: Option<&str>) -> Result<Source> {
    resolve_if(name, revision, &mut |_| Ok(()))
}

/// The same, if `accept` has nothing against its configuration, which is asked before any weights are fetched. A model of an unknown
/// type is never accepted.
pub(crate) fn resolve_if(
    name: &str,
    revision: Option<&str>,
    accept: &mut (dyn FnMut(&ModelConfig) -> Result + Send),
) -> Result<Source> {
    if is_gguf(Path::new(name)) {
        return Ok(Source { folder: name.into(), repo: None });
    }
    let is_own = Path::new(name).is_dir();
    let hub = hub()?;
    let name = if is_own { name.to_owned() } else { full_name(name, &hub)? };
    if !is_own && let Some(folder) = mlxlm_models::demo::folder(&name)? {
        accept(&ModelConfig::read(&folder)?)?;
        return Ok(Source { folder, repo: None });
    }
    if is_own && mlxlm_models::demo::names().any(|(built_in, _)| built_in == name) {
        note(format_args!("using the folder `{name}`, not the built-in model of that name"));
    }
    let mut refused = None;
    let folder = hub.resolve_if(&name, revision, &progress::shown(), &mut |folder| {
        let accepted = ModelConfig::read(folder).map_err(Failure::from).and_then(|config| {
            Architecture::of(&config)?;
            accept(&config)
        });
        refused = accepted.err();
        refused.is_none()
    });
    let folder = folder.map_err(|error| not_found(&name, error))?;
    match (folder, refused) {
        (_, Some(failure)) => Err(failure),
        (Some(folder), None) => {
            let repo = if is_own { None } else { RepoId::parse(&name).ok() };
            Ok(Source { folder, repo })
        }
        (None, None) => Err(Failure::new(format!("`{name}` was not accepted"))),
    }
}

/// What a short name stands for: one of the user's settings, or the only repository of the cache that ends in it.
fn full_name(name: &str, hub: &Hub) -> Result<String> {
    if let Some(full) = Settings::read()?.model(name) {
        return Ok(full.to_owned());
    }
    let is_built_in = mlxlm_models::demo::names().any(|(built_in, _)| built_in == name);
    if is_built_in || name.contains('/') {
        return Ok(name.to_owned());
    }
    let cached = cached_repos(&hub.options().cache);
    if cached.iter().any(|repo| repo == name) {
        return Ok(name.to_owned());
    }
    let last = |repo: &&String| repo.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(name));
    let found: Vec<&String> = cached.iter().filter(last).collect();
    match found[..] {
        [] => Ok(name.to_owned()),
        [repo] => {
            note(format_args!("using `{repo}` from the cache for `{name}`"));
            Ok(repo.clone())
        }
        _ => {
            let all: Vec<String> = found.iter().map(|repo| format!("`{}`", terminal::name(repo))).collect();
            Err(Failure::usage(format!("`{name}` may be {}", all.join(" or "))).hint("use the full name"))
        }
    }
}

/// The repositories of models in the cache, as `org/name`.
fn cached_repos(cache: &Path) -> Vec<String> {
    let folders = io::read_dir(cache).unwrap_or_default();
    let repo = |folder: &PathBuf| Some(folder.file_name()?.to_str()?.strip_prefix("models--")?.replacen("--", "/", 1));
    folders.iter().filter_map(repo).collect()
}

/// A model that cannot be had, by its name: without a network nobody may remember which one that was.
fn not_found(name: &str, error: mlxlm_core::Error) -> Failure {
    const WITHOUT_NETWORK: &str = "`--model demo` needs no network, and `mlxlm list` shows what is on this machine";
    let which = if name == DEFAULT_MODEL { format!("`{name}` (the default model)") } else { format!("`{name}`") };
    match &error {
        mlxlm_core::Error::Hub(HubError::Unreachable { endpoint, cause }) => {
            Failure::new(format!("{which} is not in the cache, and {endpoint} cannot be reached: {cause}"))
                .hint(format!("check the network, the proxy and HF_ENDPOINT; {WITHOUT_NETWORK}"))
        }
        mlxlm_core::Error::Hub(HubError::Offline { cache, revision, .. }) => Failure::new(format!(
            "{which} at revision `{revision}` is not in the cache `{}`, and HF_HUB_OFFLINE is set",
            cache.display()
        ))
        .hint(format!("unset HF_HUB_OFFLINE to download it; {WITHOUT_NETWORK}")),
        _ => error.into(),
    }
}

/// Whether a model is given as a file of GGUF.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        && mlxlm_models::gguf::is_file(path)
}

/// The hub, as the environment describes it.
pub(crate) fn hub() -> Result<Hub> {
    Ok(Hub::new(HubOptions::from_env()?))
}

/// Refuses a folder that is not an adapter, by what it lacks.
fn check_adapter(folder: &Path) -> Result {
    const CONFIG: &str = "adapter_config.json";
    match folder.join(CONFIG).exists() {
        true => Ok(()),
        false => Err(Failure::new(format!("`{}` has no `{CONFIG}`", folder.display()))
            .hint("use the folder of an adapter, as `mlxlm lora` or PEFT writes it")),
    }
}

/// Loads the model `name` with its adapter, if one is given; warnings go to standard error.
pub(crate) fn load_model(name: &str, args: &VariantArgs, tokenizer: TokenizerOptions) -> Result<Loaded> {
    load_model_with(name, args, LoadOptions { tokenizer, ..LoadOptions::default() })
}

/// The same with other options; the adapter is that of the arguments.
pub(crate) fn load_model_with(name: &str, args: &VariantArgs, options: LoadOptions) -> Result<Loaded> {
    load_timed(name, args, options).map(|(loaded, _)| loaded)
}

/// The same, with the time that loading took, downloads not counted.
pub(crate) fn load_timed(name: &str, args: &VariantArgs, options: LoadOptions) -> Result<(Loaded, Duration)> {
    if args.trust_remote_code {
        warn(CODE_IS_NEVER_RUN);
    }
    let Source { folder, .. } = resolve(name, args.revision.as_deref())?;
    memory::check(&folder)?;
    args.adapter_path.as_deref().map_or(Ok(()), check_adapter)?;
    let begin = Instant::now();
    let busy = Busy::begin(format!("loading {}", terminal::name(name)));
    let loaded = load(folder, &LoadOptions { adapter_path: args.adapter_path.clone(), ..options })?;
    drop(busy);
    let (_, bytes) = nn::size(&*loaded.model);
    loaded.warnings.iter().chain(&WiredLimit::warning(bytes)).for_each(warn);
    Ok((loaded, begin.elapsed()))
}
