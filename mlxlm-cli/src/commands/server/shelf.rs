//! The models that requests may ask for beside the first: those of the command line, those of folders, and those of the hub, if that is
//! allowed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxlm_core::hub::RepoId;
use mlxlm_core::{device, io};
use mlxlm_models::LoadOptions;
use mlxlm_serve::{Finder, Loader, Models, OtherModel};

use crate::args::{DEFAULT_MODEL, ServerArgs, VariantArgs};
use crate::failure::{Failure, Result};
use crate::model::load_model_with;

/// The model that is loaded at once: the first of those that are named, else the first of the folders.
pub(super) fn first(args: &ServerArgs) -> Result<String> {
    if let Some(name) = args.served.model.first() {
        return Ok(name.clone());
    }
    let roots = &args.served.model_dir;
    if roots.is_empty() {
        return Ok(DEFAULT_MODEL.to_owned());
    }
    let folders = roots.iter().flat_map(|root| folders(root)).min();
    let folder = folders.and_then(|folder| folder.to_str().map(str::to_owned));
    folder.ok_or_else(|| Failure::usage("there is no model in the folder of `--model-dir`"))
}

/// The other models of the command line.
pub(super) fn others(args: &ServerArgs, cpu: bool) -> Vec<OtherModel> {
    args.served.model.iter().skip(1).map(|name| other(name, vec![name.clone()], args, cpu)).collect()
}

/// Finds models that a request asks for: folders within those that are allowed, and repositories if downloads are.
pub(super) fn finder(args: &ServerArgs, cpu: bool) -> Finder {
    let args = Arc::new(args.served.clone());
    let whole = Whole { cpu, mtp: false };
    Finder::new(move |name| {
        let found = args.model_dir.iter().find_map(|root| within(root, name));
        if let Some(folder) = found {
            let path = folder.to_str()?.to_owned();
            let mut names = vec![name.to_owned()];
            names.extend(folder.file_name().and_then(|name| name.to_str()).map(str::to_owned));
            names.dedup();
            let bytes = bytes(&path);
            return Some(OtherModel { names, loader: whole.loader(path), bytes });
        }
        // A folder of this name that lies elsewhere would be taken for the repository.
        if !args.allow_download || RepoId::parse(name).is_err() || Path::new(name).exists() {
            return None;
        }
        Some(OtherModel { names: vec![name.to_owned()], loader: whole.loader(name.to_owned()), bytes: 0 })
    })
}

fn other(name: &str, mut names: Vec<String>, args: &ServerArgs, cpu: bool) -> OtherModel {
    let folder = Path::new(name).file_name().and_then(|folder| folder.to_str()).map(str::to_owned);
    names.extend(folder.filter(|folder| folder != name));
    let whole = Whole { cpu, mtp: args.speculation.mtp.is_some() };
    OtherModel { names, loader: whole.loader(name.to_owned()), bytes: bytes(name) }
}

/// How models beside the first are loaded: without adapter and draft model, which are the first's.
#[derive(Clone, Copy)]
struct Whole {
    cpu: bool,
    mtp: bool,
}

impl Whole {
    fn loader(self, name: String) -> Loader {
        Arc::new(move || {
            if self.cpu {
                device::use_cpu();
            }
            let options = LoadOptions { mtp: self.mtp, ..LoadOptions::default() };
            let main =
                load_model_with(&name, &VariantArgs::default(), options).map_err(|failure| failure.in_a_line())?;
            Ok(Models { main, draft: None })
        })
    }
}

/// The folder of a model by its name, if it lies within a root. Links that lead out of it are not followed.
fn within(root: &Path, name: &str) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let folder = root.join(name).canonicalize().ok()?;
    (folder.starts_with(&root) && folder != root && is_model(&folder)).then_some(folder)
}

fn is_model(folder: &Path) -> bool {
    folder.join("config.json").is_file()
}

/// The folders of a root that are models.
fn folders(root: &Path) -> Vec<PathBuf> {
    // One that cannot be read has none.
    io::read_dir(root).unwrap_or_default().into_iter().filter(|path| is_model(path)).collect()
}

/// About how much memory a model takes: the bytes of its weights. 0 for one that is not here yet.
pub(super) fn bytes(name: &str) -> u64 {
    let path = Path::new(name);
    if path.is_file() {
        return path.metadata().map_or(0, |file| file.len());
    }
    let folder = match mlxlm_models::demo::folder(name) {
        Ok(Some(folder)) => folder,
        _ => path.to_owned(),
    };
    let entries = io::read_dir(folder).unwrap_or_default().into_iter();
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    // Through links, as those of the hub's cache are.
    entries.filter(is_weights).filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum()
}
