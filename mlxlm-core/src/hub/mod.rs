//! Models by name: a folder of one's own, or a repository of the Hugging Face hub through the cache that all its
//! clients share. Also the way back (upload, model card) and the care of the cache (scan, delete).
//!
//! ```no_run
//! use mlxlm_core::hub::{Hub, HubOptions, Progress};
//!
//! let hub = Hub::new(HubOptions::from_env()?);
//! let folder = hub.resolve("mlx-community/Llama-3.2-1B-Instruct-4bit", None, &Progress::none())?;
//! assert!(folder.join("config.json").exists());
//! # Ok::<(), mlxlm_core::Error>(())
//! ```
//!
//! - Downloads resume, are checked against the hub's hashes, and appear by rename; what was damaged since is fetched
//!   again. The folders are those of Python's
//!   `huggingface_hub`, so that both share what either has fetched.
//! - Only what a model needs is fetched, and never Python code.
//! - Source: mlx-lm 0.32.2 `utils.py` (`_download`, `upload_to_hub`, `create_model_card`) and `manage.py`;
//!   `huggingface_hub` 2.4 for the protocol and the layout.

mod download;
mod error;
mod hash;
mod layout;
mod listing;
mod manage;
mod model_card;
mod options;
mod progress;
mod repo_id;
mod snapshot;
mod soundness;
mod upload;
mod wire;

use std::path::{Path, PathBuf};

pub use error::HubError;
pub use manage::{CachedRepo, CachedRevision, Scan};
pub use model_card::ModelCard;
pub use options::HubOptions;
pub use progress::{Event, Progress};
pub use repo_id::RepoId;
pub use upload::Upload;

use crate::Result;
use snapshot::Snapshot;

/// How this library names itself to the hub.
const USER_AGENT: &str = concat!("mlxlm/", env!("CARGO_PKG_VERSION"));

const DEFAULT_REVISION: &str = "main";

/// The hub and its cache, under fixed settings.
#[derive(Debug, Clone)]
pub struct Hub {
    options: HubOptions,
}

impl Hub {
    /// The hub that `options` describe. Nothing is asked or read yet.
    pub fn new(options: HubOptions) -> Self {
        Self { options }
    }

    /// The settings.
    pub fn options(&self) -> &HubOptions {
        &self.options
    }

    /// The folder of a model: `model` itself if such a folder exists, else that of the hub's repository of this name at
    /// `revision` (a branch, a tag or a commit; `main` if none), which is downloaded as far as it is not there.
    ///
    /// A revision of a local folder is not looked at, as in mlx-lm.
    ///
    /// # Errors
    /// [`HubError`], if the name can be neither, or the repository cannot be had; [`crate::Error::Io`] if the cache
    /// cannot be written.
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the bare method is for one lifetime only")]
    pub fn resolve(&self, model: &str, revision: Option<&str>, progress: &Progress) -> Result<PathBuf> {
        if let Some(folder) = local(model)? {
            return Ok(folder);
        }
        self.snapshot(model, revision, progress, |snapshot| snapshot.model())
    }

    /// As [`Hub::resolve`], but `accept` sees the folder when `config.json` is in it and nothing else need be: if it says no, nothing more
    /// is fetched, and none comes back. A folder of one's own, and a model that is in the cache whole, are seen as they are.
    ///
    /// # Errors
    /// As [`Hub::resolve`].
    pub fn resolve_if(
        &self,
        model: &str,
        revision: Option<&str>,
        progress: &Progress,
        accept: &mut (dyn FnMut(&Path) -> bool + Send),
    ) -> Result<Option<PathBuf>> {
        if let Some(folder) = local(model)? {
            return Ok(accept(&folder).then_some(folder));
        }
        self.snapshot(model, revision, progress, |snapshot| snapshot.model_if(accept))
    }

    /// A single file of a model (say `README.md`), or none where it has no such file.
    ///
    /// # Errors
    /// As [`Hub::resolve`].
    pub fn file(
        &self,
        model: &str,
        revision: Option<&str>,
        path: &str,
        progress: &Progress,
    ) -> Result<Option<PathBuf>> {
        if let Some(folder) = local(model)? {
            return Ok(Some(folder.join(path)).filter(|file| file.is_file()));
        }
        self.snapshot(model, revision, progress, |snapshot| snapshot.file(path))
    }

    /// The folder of a dataset of the hub with the files that `choose` picks, by the paths of all files and the text of
    /// `README.md`, and which they are. They are downloaded as far as they are not there.
    ///
    /// # Errors
    /// As [`Hub::resolve`].
    pub fn dataset(
        &self,
        dataset: &str,
        revision: Option<&str>,
        progress: &Progress,
        choose: &(dyn Fn(&[&str], Option<&str>) -> Vec<String> + Sync),
    ) -> Result<(PathBuf, Vec<String>)> {
        self.snapshot_of(&RepoId::dataset(dataset)?, revision, progress, |snapshot| snapshot.chosen(choose))
    }

    fn snapshot<T: Send>(
        &self,
        model: &str,
        revision: Option<&str>,
        progress: &Progress,
        work: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        self.snapshot_of(&RepoId::parse(model)?, revision, progress, work)
    }

    fn snapshot_of<T: Send>(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
        progress: &Progress,
        work: impl FnOnce(&Snapshot<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        repo_id::check_revision(revision)?;
        on_own_thread(|| work(&Snapshot { options: &self.options, repo, revision, progress }))
    }
}

/// The folder that a name stands for without any hub.
fn local(model: &str) -> Result<Option<PathBuf>, HubError> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(Some(path.to_owned()));
    }
    if path.is_file() {
        return Err(HubError::NotAFolder { path: path.to_owned() });
    }
    Ok(None)
}

/// Runs blocking HTTP where it is allowed: its client panics on a thread that drives a tokio runtime.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
