//! A commit of a repository as a folder in the cache: from the hub, or from what is there already.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::HubError;
use super::download::Download;
use super::layout::RepoCache;
use super::listing::{self, Entry};
use super::options::HubOptions;
use super::progress::{Event, Progress};
use super::repo_id::{RepoId, is_commit};
use super::wire::Wire;
use crate::{Error, Result, io};

/// Files that are fetched at once.
const WORKERS: usize = 8;

/// One revision of one repository, and whom to tell of its download.
pub(super) struct Snapshot<'a> {
    pub options: &'a HubOptions,
    pub repo: &'a RepoId,
    pub revision: &'a str,
    pub progress: &'a Progress,
}

impl Snapshot<'_> {
    /// The folder that holds what a model needs.
    pub(super) fn model(&self) -> Result<PathBuf> {
        let cache = self.cache();
        if self.options.offline || (is_commit(self.revision) && cache.missing(self.revision).is_empty()) {
            return self.cached_model(None);
        }
        let wire = self.wire()?;
        let (commit, entries) = match self.ask(&wire) {
            Ok(found) => found,
            Err(error) => return self.cached_model(Some(error)),
        };
        let download = |entries: &[&Entry]| self.download(&wire, &commit, entries);

        check_model(self.repo, &entries)?;
        let index: Vec<&Entry> = entries.iter().filter(|entry| entry.path == listing::INDEX).collect();
        download(&index)?;
        let folder = cache.snapshot(&commit);
        let index = if index.is_empty() { None } else { Some(io::read_json(folder.join(listing::INDEX))?) };
        download(&listing::needed(&entries, index.as_ref()))?;
        cache.remember(self.revision, &commit)?;
        self.progress.tell(Event::Done);
        Ok(folder)
    }

    /// A single file, or none where the repository has no such one.
    pub(super) fn file(&self, path: &str) -> Result<Option<PathBuf>> {
        let cache = self.cache();
        let cached = || {
            let commit = cache.commit_of(self.revision)?;
            Some(cache.snapshot(&commit).join(path)).filter(|file| file.is_file())
        };
        if self.options.offline {
            return Ok(cached());
        }
        let wire = self.wire()?;
        let (commit, entries) = match self.ask(&wire) {
            Ok(found) => found,
            Err(error) => {
                let cause = error.to_string();
                let file = cached().ok_or(error)?;
                self.progress.tell(Event::FromCache { repo: self.repo.as_str(), cause: &cause });
                return Ok(Some(file));
            }
        };
        let Some(entry) = entries.iter().find(|entry| entry.path == path) else { return Ok(None) };
        self.download(&wire, &commit, &[entry])?;
        self.progress.tell(Event::Done);
        Ok(Some(cache.snapshot(&commit).join(path)))
    }

    fn cache(&self) -> RepoCache {
        RepoCache::new(&self.options.cache, self.repo)
    }

    fn wire(&self) -> Result<Wire<'_>> {
        Ok(Wire::new(self.options, self.repo, self.progress)?)
    }

    /// The commit, and its files.
    fn ask(&self, wire: &Wire<'_>) -> Result<(String, Vec<Entry>), HubError> {
        let commit = if is_commit(self.revision) { self.revision.to_owned() } else { wire.commit(self.revision)? };
        let entries = match self.cache().listing(&commit) {
            Some(entries) => entries,
            None => wire.listing(&commit)?,
        };
        Ok((commit, entries))
    }

    /// The model as the cache has it. `error` is why the hub could not be asked, or none if it must not be.
    ///
    /// As in Python, a model that is there whole is used even if the hub refuses: an expired token or a repository that
    /// has gone should not stop what worked yesterday. Answers that are wrong in themselves are errors all the same.
    fn cached_model(&self, error: Option<HubError>) -> Result<PathBuf> {
        if let Some(
            error @ (HubError::RevisionNotFound { .. } | HubError::UnsafePath { .. } | HubError::Malformed { .. }),
        ) = error
        {
            return Err(error.into());
        }
        let cache = self.cache();
        let folder = cache.commit_of(self.revision).map(|commit| (cache.snapshot(&commit), cache.missing(&commit)));
        match (folder, error) {
            (Some((folder, missing)), error) if missing.is_empty() => {
                if let Some(error) = error {
                    let cause = error.to_string();
                    self.progress.tell(Event::FromCache { repo: self.repo.as_str(), cause: &cause });
                }
                Ok(folder)
            }
            (_, Some(error)) => Err(error.into()),
            (Some((path, missing)), None) if path.is_dir() => Err(HubError::Incomplete { path, missing }.into()),
            (_, None) => Err(HubError::Offline {
                repo: self.repo.to_string(),
                revision: self.revision.to_owned(),
                cache: self.options.cache.clone(),
            }
            .into()),
        }
    }

    /// Fetches what the snapshot lacks of `entries`, several at once.
    fn download(&self, wire: &Wire<'_>, commit: &str, entries: &[&Entry]) -> Result<()> {
        let cache = self.cache();
        let absent: Vec<&Entry> = entries.iter().copied().filter(|entry| !cache.has(commit, entry)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        // What another commit has brought needs a link only.
        let new: Vec<u64> =
            absent.iter().filter(|entry| !cache.has_blob(entry)).map(|entry| entry.size_bytes).collect();
        let total_bytes = new.iter().sum();
        self.progress.tell(Event::Start { repo: self.repo.as_str(), files: new.len(), total_bytes });
        cache.mark()?;

        let (next, stop, failed) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None::<Error>));
        let work = Download { wire, cache: &cache, commit, progress: self.progress, stop: &stop };
        thread::scope(|scope| {
            for _ in 0..WORKERS.min(absent.len()) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed)
                        && let Some(entry) = absent.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if let Err(error) = work.fetch(entry) {
                            stop.store(true, Ordering::Relaxed);
                            // The first is the cause; the others stopped because of it.
                            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// Refuses a repository without a model before anything of it is fetched.
fn check_model(repo: &RepoId, entries: &[Entry]) -> Result<(), HubError> {
    let any = |test: &dyn Fn(&str) -> bool| entries.iter().any(|entry| test(&entry.path));
    let missing = if !any(&|path| path == "config.json") {
        "config.json"
    } else if !any(&listing::is_weights) {
        "model*.safetensors"
    } else {
        return Ok(());
    };
    let kinds = [(".gguf", "GGUF files"), (".bin", "PyTorch files"), ("adapters.safetensors", "an adapter")];
    let held = kinds.iter().find(|(suffix, _)| any(&|path| path.ends_with(suffix)));
    let note = held.map(|(_, kind)| format!("it holds {kind}")).unwrap_or_default();
    Err(HubError::NotAModel { repo: repo.to_string(), missing, note })
}
