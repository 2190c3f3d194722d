//! The care of the cache: what it holds, and removing a repository from it (mlx-lm's `manage`).
//!
//! The walk is hf-hub's. Removing is ours, since hf-hub 1.0 has none, and knows the store of blobs that Python's
//! client (2.4) shares between repositories: `<cache>/blobs/<xx>/<hash>` with a list of its users in `<hash>.refs`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hf_hub::HFClient;

use super::upload::from_client;
use super::{Hub, HubError};
use crate::{Error, Result, io};

/// What the cache holds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scan {
    /// The cache folder.
    pub cache: PathBuf,
    /// Its repositories, sorted by path.
    pub repos: Vec<CachedRepo>,
    /// What could not be read, in words.
    pub warnings: Vec<String>,
}

/// A repository in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedRepo {
    /// Its id, as in `org/name`.
    pub id: String,
    /// `model`, `dataset`, `space` or `kernel`.
    pub kind: &'static str,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of its files, each blob counted once.
    pub size_bytes: u64,
    /// Number of its blobs.
    pub files: usize,
    /// When one of its files was last read.
    pub last_accessed: SystemTime,
    /// When one of its files was last written.
    pub last_modified: SystemTime,
    /// Its commits, sorted by hash.
    pub revisions: Vec<CachedRevision>,
}

/// A commit of a repository in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedRevision {
    /// The commit.
    pub commit: String,
    /// Branches and tags that meant it at the last download, sorted.
    pub refs: Vec<String>,
    /// The snapshot folder.
    pub path: PathBuf,
    /// Bytes of its files, also of those that other commits share.
    pub size_bytes: u64,
    /// Number of its files.
    pub files: usize,
    /// When one of its files was last written.
    pub last_modified: SystemTime,
}

impl Hub {
    /// Lists the repositories in the cache. A cache that does not exist is an empty one.
    ///
    /// # Errors
    /// If the cache folder cannot be read. Single files that cannot are among the warnings.
    pub fn scan(&self) -> Result<Scan> {
        let cache = &self.options.cache;
        let failed = |error| from_client(error, "", &self.options.endpoint, cache);
        let client =
            HFClient::builder().endpoint(&self.options.endpoint).cache_dir(cache).build_sync().map_err(failed)?;
        let found = client.scan_cache().send().map_err(failed)?;
        let mut repos: Vec<CachedRepo> = found.repos.into_iter().map(CachedRepo::from).collect();
        repos.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Scan { cache: cache.clone(), repos, warnings: found.warnings })
    }

    /// Removes a repository from the cache: all its revisions, and shared blobs that nobody else uses.
    ///
    /// # Errors
    /// If its folder is not one of this cache, or cannot be removed.
    pub fn delete(&self, repo: &CachedRepo) -> Result<()> {
        let cache = &self.options.cache;
        let name = repo.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if repo.path.parent() != Some(cache) || !name.contains("--") {
            let cause = format!("`{}` is not a repository of the cache `{}`", repo.path.display(), cache.display());
            return Err(HubError::Client { cause }.into());
        }
        let shared: Vec<PathBuf> = io::read_dir(repo.path.join("blobs"))
            .unwrap_or_default()
            .iter()
            .filter_map(|blob| shared_blob(cache, blob))
            .collect();
        // Gone in one step for everybody else, whatever happens to the removal of its many files.
        let (doomed, _lock) = io::scratch(cache)?;
        io::rename(&repo.path, doomed.path().join(name))?;
        io::remove_dir_all(doomed.path())?;
        shared.iter().try_for_each(|blob| remove_unused(cache, blob))
    }
}

impl From<hf_hub::cache::CachedRepoInfo> for CachedRepo {
    fn from(repo: hf_hub::cache::CachedRepoInfo) -> Self {
        let mut revisions: Vec<CachedRevision> = repo.revisions.into_iter().map(CachedRevision::from).collect();
        revisions.sort_by(|a, b| a.commit.cmp(&b.commit));
        Self {
            id: repo.repo_id,
            kind: repo.repo_type,
            path: repo.repo_path,
            size_bytes: repo.size_on_disk,
            files: repo.nb_files,
            last_accessed: repo.last_accessed,
            last_modified: repo.last_modified,
            revisions,
        }
    }
}

impl From<hf_hub::cache::CachedRevisionInfo> for CachedRevision {
    fn from(revision: hf_hub::cache::CachedRevisionInfo) -> Self {
        let mut refs = revision.refs;
        refs.sort();
        Self {
            commit: revision.commit_hash,
            refs,
            path: revision.snapshot_path,
            size_bytes: revision.size_on_disk,
            files: revision.files.len(),
            last_modified: revision.last_modified,
        }
    }
}

/// The blob in the shared store that a repository's blob is a link to, if it is one.
fn shared_blob(cache: &Path, blob: &Path) -> Option<PathBuf> {
    let target = fs::read_link(blob).ok()?;
    let hash = target.file_name()?.to_str()?;
    let known = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let store = cache.join("blobs").join(hash.get(..2)?).join(hash);
    let same = fs::canonicalize(blob).ok()? == fs::canonicalize(&store).ok()?;
    (known && same).then_some(store)
}

/// Removes a shared blob whose list of users is there and names no link to it any more. In doubt it stays.
fn remove_unused(cache: &Path, blob: &Path) -> Result<()> {
    let beside = |suffix: &str| {
        let mut name = blob.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let (users, lock) = (beside(".refs"), beside(".lock"));
    let lock = File::options().create(true).append(true).open(&lock).map_err(failed("open", &lock))?;
    let Ok(names) = lock.lock().and_then(|()| fs::read_to_string(&users)) else { return Ok(()) };
    let used = |user: &str| {
        let inside = !user.starts_with('/') && !user.split('/').any(|part| part == "..");
        inside && shared_blob(cache, &cache.join(user)).as_deref() == Some(blob)
    };
    if names.lines().any(used) {
        return Ok(());
    }
    fs::remove_file(blob).map_err(failed("remove", blob))?;
    fs::remove_file(&users).map_err(failed("remove", &users))
}
