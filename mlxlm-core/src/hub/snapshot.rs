//! A commit of a repository as a folder in the cache: from the hub, or from what is there already.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::download::Download;
use super::layout::RepoCache;
use super::listing::{self, Entry};
use super::options::HubOptions;
use super::progress::{Event, Progress};
use super::repo_id::{RepoId, is_commit};
use super::wire::Wire;
use super::{DEFAULT_REVISION, HubError};
use crate::{Error, Result, io};

/// Files that are fetched at once.
const WORKERS: usize = 8;

/// What says what a repository is.
const README: &str = "README.md";

/// Chooses files of a repository by their paths, and by its `README.md`.
pub(super) type Choose<'a> = dyn Fn(&[&str], Option<&str>) -> Vec<String> + Sync + 'a;

/// One revision of one repository, and to whom its download is reported.
pub(super) struct Snapshot<'a> {
    pub options: &'a HubOptions,
    pub repo: &'a RepoId,
    pub revision: &'a str,
    pub progress: &'a Progress,
}

impl Snapshot<'_> {
    /// The folder that holds what a model needs.
    pub(super) fn model(&self) -> Result<PathBuf> {
        let folder = self.model_if(&mut |_| true)?;
        folder.ok_or_else(|| HubError::Client { cause: "a model was not accepted".to_owned() }.into())
    }

    /// The same, if `accept` takes the folder once it has `config.json`.
    pub(super) fn model_if(&self, accept: &mut (dyn FnMut(&Path) -> bool + Send)) -> Result<Option<PathBuf>> {
        let cache = self.cache();
        if self.options.offline || (is_commit(self.revision) && cache.missing(self.revision, self.progress).is_empty())
        {
            return self.cached_model(None).map(|folder| accept(&folder).then_some(folder));
        }
        let wire = self.wire()?;
        let (commit, entries) = match self.ask(&wire) {
            Ok(found) => found,
            Err(error) => return self.cached_model(Some(error)).map(|folder| accept(&folder).then_some(folder)),
        };
        let download = |entries: &[&Entry]| self.download(&wire, &commit, entries);

        check_model(self.repo, &entries)?;
        // What cannot be used should cost no more than the file that says so.
        let config: Vec<&Entry> = entries.iter().filter(|entry| entry.path == "config.json").collect();
        download(&config)?;
        if !accept(&cache.snapshot(&commit)) {
            return Ok(None);
        }
        let index: Vec<&Entry> = entries.iter().filter(|entry| entry.path == listing::INDEX).collect();
        download(&index)?;
        let folder = cache.snapshot(&commit);
        // What is no index counts as none here; a loader says what is wrong with it.
        let index = if index.is_empty() { None } else { io::read_json(folder.join(listing::INDEX)).ok() };
        download(&listing::needed(&entries, index.as_ref()))?;
        cache.remember(self.revision, &commit)?;
        self.progress.report(Event::Done);
        Ok(Some(folder))
    }

    /// A single file, or none where the repository has no such one.
    pub(super) fn file(&self, path: &str) -> Result<Option<PathBuf>> {
        let cache = self.cache();
        let cached = || {
            let commit = self.cached_commit(&cache)?;
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
                self.report_cached(&cause);
                return Ok(Some(file));
            }
        };
        let Some(entry) = entries.iter().find(|entry| entry.path == path) else { return Ok(None) };
        self.download(&wire, &commit, &[entry])?;
        self.progress.report(Event::Done);
        Ok(Some(cache.snapshot(&commit).join(path)))
    }

    /// The folder of the files that `choose` wants of those that the repository lists, and their paths in it.
    ///
    /// Where the hub may not or cannot be asked, it chooses among the files that are in the cache.
    pub(super) fn chosen(&self, choose: &Choose<'_>) -> Result<(PathBuf, Vec<String>)> {
        if self.options.offline {
            return self.chosen_of_cache(choose, None);
        }
        let wire = self.wire()?;
        let (commit, entries) = match self.ask(&wire) {
            Ok(found) => found,
            Err(error) => return self.chosen_of_cache(choose, Some(error)),
        };
        let cache = self.cache();
        let folder = cache.snapshot(&commit);
        let readme: Vec<&Entry> = entries.iter().filter(|entry| entry.path == README).collect();
        self.download(&wire, &commit, &readme)?;
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        let wanted = choose(&paths, io::read_to_string(folder.join(README)).ok().as_deref());
        let chosen: Vec<&Entry> = entries.iter().filter(|entry| wanted.contains(&entry.path)).collect();
        self.download(&wire, &commit, &chosen)?;
        cache.remember(self.revision, &commit)?;
        self.progress.report(Event::Done);
        Ok((folder, chosen.iter().map(|entry| entry.path.clone()).collect()))
    }

    fn chosen_of_cache(&self, choose: &Choose<'_>, error: Option<HubError>) -> Result<(PathBuf, Vec<String>)> {
        let cache = self.cache();
        let folder = self.cached_commit(&cache).map(|commit| cache.snapshot(&commit)).filter(|folder| folder.is_dir());
        let Some(folder) = folder else {
            let offline = || HubError::Offline {
                repo: self.repo.to_string(),
                revision: self.revision.to_owned(),
                cache: self.options.cache.clone(),
            };
            return Err(error.unwrap_or_else(offline).into());
        };
        let mut paths = Vec::new();
        files_below(&folder, "", &mut paths)?;
        let all: Vec<&str> = paths.iter().map(String::as_str).collect();
        let mut chosen = choose(&all, io::read_to_string(folder.join(README)).ok().as_deref());
        chosen.retain(|path| paths.contains(path));
        match (chosen.is_empty(), error) {
            (true, Some(error)) => Err(error.into()),
            (_, error) => {
                if let Some(error) = error {
                    self.report_cached(&error.to_string());
                }
                Ok((folder, chosen))
            }
        }
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
        let found = self.cached_commit(&cache);
        let folder = found.map(|commit| (cache.snapshot(&commit), cache.missing(&commit, self.progress)));
        match (folder, error) {
            (Some((folder, missing)), error) if missing.is_empty() => {
                if let Some(error) = error {
                    self.report_cached(&error.to_string());
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

    /// The commit of the cache that the revision means. A cache without a record of it may be a copy: for the default
    /// revision, the newest snapshot is taken, and that is reported.
    fn cached_commit(&self, cache: &RepoCache) -> Option<String> {
        if let Some(commit) = cache.commit_of(self.revision) {
            return Some(commit);
        }
        let commit = cache.newest_commit().filter(|_| self.revision == DEFAULT_REVISION)?;
        self.report_cached(&format!("it does not say which commit `{}` is; its newest is {commit}", self.revision));
        Some(commit)
    }

    /// Refuses a download that the disk of the cache has no room for.
    fn check_room(&self, needed_bytes: u64) -> Result<(), HubError> {
        match io::free_disk_bytes(&self.options.cache) {
            Some(free_bytes) if free_bytes < needed_bytes => Err(HubError::NoRoom {
                repo: self.repo.to_string(),
                cache: self.options.cache.clone(),
                needed_bytes,
                free_bytes,
            }),
            _ => Ok(()),
        }
    }

    fn report_cached(&self, cause: &str) {
        self.progress.report(Event::FromCache { repo: self.repo.as_str(), cause });
    }

    /// Fetches what the snapshot lacks of `entries`, several at once.
    fn download(&self, wire: &Wire<'_>, commit: &str, entries: &[&Entry]) -> Result<()> {
        let cache = self.cache();
        let absent: Vec<&Entry> =
            entries.iter().copied().filter(|entry| !cache.has(commit, entry, self.progress)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        // What another commit has brought needs a link only.
        let new: Vec<&Entry> = absent.iter().copied().filter(|entry| !cache.has_blob(entry, self.progress)).collect();
        let total_bytes = new.iter().map(|entry| entry.size_bytes).sum();
        let left = |entry: &&Entry| {
            let fetched = std::fs::metadata(cache.partial(entry)).map_or(0, |partial| partial.len());
            entry.size_bytes.saturating_sub(fetched)
        };
        cache.mark()?;
        self.check_room(new.iter().map(left).sum())?;
        self.progress.report(Event::Start { repo: self.repo.as_str(), files: new.len(), total_bytes });

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

/// The paths of all files below a folder.
fn files_below(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    for path in io::read_dir(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        // The files of a snapshot are links, its folders are none.
        match path.is_dir() && !path.is_symlink() {
            true => files_below(&path, &format!("{name}/"), paths)?,
            false => paths.push(name),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    #[test]
    fn a_disk_without_room_is_said_before_anything_is_fetched() {
        let cache = tempfile::tempdir().unwrap();
        let options = HubOptions::new("http://127.0.0.1:9", cache.path());
        let (repo, progress) = (RepoId::parse("org/name").unwrap(), Progress::none());
        let snapshot = Snapshot { options: &options, repo: &repo, revision: "main", progress: &progress };
        assert!(snapshot.check_room(0).is_ok());
        let error = snapshot.check_room(u64::MAX).unwrap_err();
        assert!(error.to_string().starts_with("`org/name` needs 18446744073.7 GB, but "), "{error}");
        assert!(error.hint().unwrap().contains("HF_HUB_CACHE"));
    }
}
