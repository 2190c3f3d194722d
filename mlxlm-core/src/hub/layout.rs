//! The cache on disk, in the layout that all Hugging Face clients share:
//!
//! ```text
//! <cache>/models--org--name/blobs/<hash>                the bytes (`<hash>.incomplete` while they come)
//!                           snapshots/<commit>/<path>   a relative link to a blob
//!                           refs/<branch or tag>        the commit that it meant at the last download
//!                           trees/<commit>.json         the whole listing; read here, written by Python alone
//! <cache>/CACHEDIR.TAG                                  for backup tools
//! <cache>/.locks/models--org--name/<hash>.lock          held (flock) while a blob is written
//!                                  <hash>.checked       size and time of the blob when its hash was last computed
//! ```
//!
//! Unusual: a `trees` file makes Python's client treat a snapshot without the `*.py` files, which are never fetched
//! here, as incomplete when it is offline. Therefore none is written.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hash::Hash;
use super::listing::{self, Entry};
use super::progress::{Event, Progress};
use super::repo_id::{RepoId, is_commit};
use crate::index::Index;
use crate::{Error, Result, io};

/// One repository's part of the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
    tag: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &RepoId) -> Self {
        let name = repo.folder_name();
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name), tag: cache.join("CACHEDIR.TAG") }
    }

    /// Marks the cache as one, so that backups pass over it (<https://bford.info/cachedir/>).
    pub(super) fn mark(&self) -> Result<()> {
        if self.tag.exists() {
            return Ok(());
        }
        make_parent(&self.tag)?;
        io::write(&self.tag, "Signature: 8a477f597d28d172789f06886806bc55\n# Models from the Hugging Face hub.\n")
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, entry: &Entry) -> PathBuf {
        self.root.join("blobs").join(entry.hash.as_str())
    }

    pub(super) fn partial(&self, entry: &Entry) -> PathBuf {
        self.root.join("blobs").join(format!("{}.incomplete", entry.hash.as_str()))
    }

    /// The commit that a branch or tag meant when it was last downloaded.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = io::read_to_string(self.root.join("refs").join(revision)).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// The commit whose snapshot was changed last, of a cache that does not say which one a branch means (one that was
    /// copied without its `refs`, say).
    pub(super) fn newest_commit(&self) -> Option<String> {
        let snapshots = io::read_dir(self.root.join("snapshots")).ok()?;
        let dated = snapshots.iter().filter_map(|path| {
            let commit = path.file_name()?.to_str().filter(|name| is_commit(name))?;
            let found = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
            Some((found.modified().ok()?, commit))
        });
        dated.max().map(|(_, commit)| commit.to_owned())
    }

    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let file = self.root.join("refs").join(revision);
        make_parent(&file)?;
        io::write(file, commit)
    }

    /// The listing of a commit, where Python's client left one.
    pub(super) fn listing(&self, commit: &str) -> Option<Vec<Entry>> {
        let tree: listing::Tree = io::read_json(self.root.join("trees").join(format!("{commit}.json"))).ok()?;
        tree.entries()
    }

    /// Whether the snapshot has this file, whole and sound.
    pub(super) fn has(&self, commit: &str, entry: &Entry, progress: &Progress) -> bool {
        self.is_whole(&self.snapshot(commit).join(&entry.path), entry, progress)
    }

    /// Whether the bytes are there, be it for another commit.
    pub(super) fn has_blob(&self, entry: &Entry, progress: &Progress) -> bool {
        self.is_whole(&self.blob(entry), entry, progress)
    }

    fn is_whole(&self, path: &Path, entry: &Entry, progress: &Progress) -> bool {
        let size = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == entry.size_bytes);
        size && self.is_sound(path, &entry.hash, &entry.path, progress)
    }

    /// Where it is noted that a blob was checked.
    pub(super) fn stamp(&self, hash: &Hash) -> PathBuf {
        self.locks.join(format!("{}.checked", hash.as_str()))
    }

    /// Makes the snapshot's name for a blob.
    pub(super) fn link(&self, commit: &str, entry: &Entry) -> Result<()> {
        let pointer = self.snapshot(commit).join(&entry.path);
        make_parent(&pointer)?;
        let up = "../".repeat(2 + entry.path.split('/').count() - 1);
        let target = format!("{up}blobs/{}", entry.hash.as_str());
        io::link(Path::new(&target), &pointer)
    }

    /// Waits until no other process writes this blob, and keeps others from it until the guard is dropped.
    ///
    /// Where the file system knows no locks, there is none: the check of the hash still keeps bad bytes out.
    pub(super) fn lock(&self, entry: &Entry, progress: &Progress) -> Result<Option<File>> {
        const POLL: Duration = Duration::from_millis(100);
        let path = self.locks.join(format!("{}.lock", entry.hash.as_str()));
        make_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(|source| Error::Io { action: "create", path, source })?;
        let mut reported = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {
                    if !reported {
                        progress.report(Event::Waiting { file: &entry.path });
                        reported = true;
                    }
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// What a loader would miss in a snapshot of this cache, or find damaged; nothing if the model is whole.
    ///
    /// With a listing this is exact. Without one it is judged by what every model has: config.json and all weights.
    pub(super) fn missing(&self, commit: &str, progress: &Progress) -> Vec<String> {
        let folder = self.snapshot(commit);
        match self.listing(commit) {
            Some(entries) => {
                let index = io::read_json(folder.join(listing::INDEX)).ok();
                let needed = listing::needed(&entries, index.as_ref()).into_iter();
                needed.filter(|entry| !self.has(commit, entry, progress)).map(|entry| entry.path.clone()).collect()
            }
            None => {
                let mut missing = missing_of_model(&folder);
                missing.extend(self.damaged(&folder, progress));
                missing
            }
        }
    }

    /// The files of a snapshot whose blobs are not those that their names say.
    fn damaged(&self, folder: &Path, progress: &Progress) -> Vec<String> {
        let name = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.to_owned();
            let hash = Hash::of_name(fs::read_link(&path).ok()?.file_name()?.to_str()?)?;
            (path.is_file() && !self.is_sound(&path, &hash, &name, progress)).then_some(name)
        };
        io::read_dir(folder).unwrap_or_default().into_iter().filter_map(name).collect()
    }
}

fn make_parent(file: &Path) -> Result<()> {
    file.parent().map_or(Ok(()), io::create_dir_all)
}

/// What a folder lacks of a model.
fn missing_of_model(folder: &Path) -> Vec<String> {
    const ONE_FILE: &str = "model.safetensors";
    let there = |name: &str| folder.join(name).is_file();
    let mut missing = Vec::new();
    if !there("config.json") {
        missing.push("config.json".to_owned());
    }
    if there(ONE_FILE) {
        return missing;
    }
    let index: Option<Index> = io::read_json(folder.join(listing::INDEX)).ok();
    let mut shards = index.unwrap_or_default().shards;
    if shards.is_empty() {
        shards = siblings(folder);
    }
    if shards.is_empty() {
        missing.push(ONE_FILE.to_owned());
    }
    missing.extend(shards.into_iter().filter(|shard| !there(shard)));
    missing
}

/// All shards of the set that the folder's `model-00001-of-00003.safetensors` belong to.
fn siblings(folder: &Path) -> BTreeSet<String> {
    let names = io::read_dir(folder).unwrap_or_default();
    let names = names.iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| listing::is_weights(name));
    let mut all = BTreeSet::new();
    for name in names {
        let counted = name.strip_suffix(".safetensors").and_then(|stem| stem.rsplit_once("-of-"));
        match counted.and_then(|(start, total)| Some((start.rsplit_once('-')?, total, total.parse::<u32>().ok()?))) {
            // A set of more than some thousand shards is a slip of the name, not a model.
            Some(((start, digits), total, count @ 1..=9999)) => {
                let width = digits.len();
                all.extend((1..=count).map(|n| format!("{start}-{n:0width$}-of-{total}.safetensors")));
            }
            _ => {
                all.insert(name.to_owned());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_missing(files: &[(&str, &str)], expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            io::write(folder.path().join(name), contents).unwrap();
        }
        assert_eq!(missing_of_model(folder.path()), expected, "{files:?}");
    }

    #[test]
    fn a_model_is_config_and_all_weights() {
        let config = ("config.json", "{}");
        check_missing(&[], &["config.json", "model.safetensors"]);
        check_missing(&[config, ("model.safetensors", "")], &[]);
        let index = (listing::INDEX, r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#);
        check_missing(&[config, index, ("model-1.safetensors", "")], &["model-2.safetensors"]);
        check_missing(&[config, index, ("model-1.safetensors", ""), ("model-2.safetensors", "")], &[]);
        // The index of a model that was merged into one file.
        check_missing(&[config, index, ("model.safetensors", "")], &[]);
        let first = ("model-00001-of-00003.safetensors", "");
        let others = ["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
        check_missing(&[config, first], &others);
        check_missing(&[config, ("model-extra.safetensors", "")], &[]);
    }

    #[test]
    fn without_refs_the_newest_snapshot_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), &RepoId::parse("org/name").unwrap());
        assert_eq!(cache.newest_commit(), None);
        for (commit, age_s) in [("0a", 30), ("0b", 10), ("0c", 20)] {
            let commit = commit.repeat(20);
            io::create_dir_all(cache.snapshot(&commit)).unwrap();
            let time = std::time::SystemTime::now() - Duration::from_secs(age_s);
            File::open(cache.snapshot(&commit)).unwrap().set_modified(time).unwrap();
        }
        io::create_dir_all(cache.snapshot("no-commit")).unwrap();
        assert_eq!(cache.newest_commit(), Some("0b".repeat(20)));
    }

    #[test]
    fn refs_hold_commits_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), &RepoId::parse("org/name").unwrap());
        let commit = "0a".repeat(20);
        assert_eq!(cache.commit_of(&commit).as_deref(), Some(commit.as_str()));
        assert_eq!(cache.commit_of("refs/pr/1"), None);
        cache.remember("refs/pr/1", &commit).unwrap();
        assert_eq!(cache.commit_of("refs/pr/1"), Some(commit));
        cache.remember("main", "../../../etc").unwrap();
        assert_eq!(cache.commit_of("main"), None);
    }
}
