//! Sequences in a folder that several processes share.
//!
//! - A sequence is one file ([`entry`]), which appears by rename once all of it is on the disk: a killed writer, or a power cut, leaves
//!   none. Its name ([`name`]) says what it holds, so that a look at the listing finds a prompt's beginnings.
//! - A reader takes no lock. A file that it has mapped stays readable when others remove it.
//! - A writer holds the folder's lock only while it makes room: the length of its file is reserved from then on, so that files and
//!   those in the making are never more than the limit. What was used longest ago goes first; a use is the file's time of change.
//! - A file that is damaged, or not what its name says, is removed and counted, and the next best is taken. For certain are seen: a
//!   file that is cut short or longer than it says, another model, adapter or version, other tokens, a header or a number that
//!   changed. Whether keys and values still are what was written is not looked at for each prompt, as it would mean to read them
//!   all; [`DiskStore::verify`] does it.
//! - A disk that is full, or refuses otherwise, is reported once and then left alone for some time; nothing else stops.

mod entry;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mlxlm_core::io::{self, FolderLock, Listed, NewFile};
use mlxlm_core::weights::SafetensorsWriter;

use super::{Checkpoint, Hit, Key, rewind};
use crate::{Caches, Error, Result, file};
use entry::{Known, Opened};
use name::{Hashes, Name};

/// How a folder is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// The most that its files take, those in the making included, in bytes: by their lengths, of which holes are a part.
    pub limit_bytes: u64,
    /// The fewest tokens of a sequence that is kept.
    pub min_tokens: usize,
    /// How long a disk that refused is left alone.
    pub pause: Duration,
}

impl Default for DiskOptions {
    /// 4 GiB, 256 tokens, and a minute.
    fn default() -> Self {
        Self { limit_bytes: 4 << 30, min_tokens: 256, pause: Duration::from_mins(1) }
    }
}

/// What a [`DiskStore`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskStats {
    /// Prompts that went on from an entry.
    pub hits: u64,
    /// Entries written.
    pub written: u64,
    /// Entries removed for others to have room.
    pub evicted: u64,
    /// Entries removed because they were damaged, or not what their names say.
    pub damaged: u64,
    /// Times that the disk refused.
    pub refused: u64,
}

/// A folder of sequences.
#[derive(Debug)]
pub struct DiskStore {
    folder: PathBuf,
    options: DiskOptions,
    known: BTreeMap<Name, Known>,
    stats: DiskStats,
    /// Until when the disk is left alone.
    paused: Option<Instant>,
    /// Whether it was reported that the disk refuses.
    is_reported: bool,
}

/// An entry that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    writer: SafetensorsWriter,
    name: Name,
    /// The entries that have nothing which this one has not.
    covered: Vec<Name>,
}

impl DiskStore {
    /// How often an entry that was found and could not be had is followed by the next best. It is removed mostly, so that this comes to
    /// an end by itself; the bound is for a folder that refuses that.
    pub(super) const TRIES: usize = 8;

    /// Opens a folder, which is made for its user alone if it is not there.
    ///
    /// # Errors
    /// [`Error::Core`] if there is no folder and none can be made, or it cannot be listed.
    pub fn open(folder: impl AsRef<Path>, options: DiskOptions) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        io::create_private_dir(&folder)?;
        io::list_files(&folder)?;
        let (known, stats) = (BTreeMap::new(), DiskStats::default());
        Ok(Self { folder, options, known, stats, paused: None, is_reported: false })
    }

    /// What it has done.
    pub fn stats(&self) -> DiskStats {
        self.stats
    }

    /// The files of the folder that count: entries of any version, and those in the making.
    fn listed(&self) -> Vec<Listed> {
        let counts = |file: &Listed| Name::parse(&file.name).is_some() || io::is_temporary(&file.name);
        io::list_files(&self.folder).unwrap_or_default().into_iter().filter(counts).collect()
    }

    fn names(&self) -> BTreeSet<Name> {
        self.listed().iter().filter_map(|file| Name::parse(&file.name)).collect()
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.folder.join(name.to_string())
    }

    /// The longest beginning of a prompt that an entry has caches of, without the last token, and which entry.
    pub(super) fn find(&mut self, key: &Key, tokens: &[u32]) -> Option<(usize, Found)> {
        let most = tokens.len().checked_sub(1)?;
        let names = self.names();
        self.known.retain(|name, _| names.contains(name));
        let hashes = Hashes::new(key, tokens);
        let mut best: Option<(usize, &Name)> = None;
        for (name, is_beginning) in hashes.related(&names) {
            let reach = match is_beginning && name.tokens <= most {
                true => name.tokens,
                false => self.look(name, key).map_or(0, |known| known.reaches(tokens, most)),
            };
            if reach > best.map_or(0, |(tokens, _)| tokens) {
                best = Some((reach, name));
            }
        }
        best.map(|(tokens, name)| (tokens, Found(name.clone())))
    }

    /// What is known of an entry; at the first time that means to open it.
    fn look(&mut self, name: &Name, key: &Key) -> Option<&Known> {
        if !self.known.contains_key(name) {
            let opened = Opened::open(&self.path(name), key);
            let known = self.sound(name, opened)?.known;
            self.known.insert(name.clone(), known);
        }
        self.known.get(name)
    }

    /// What was read of an entry. A damaged one is removed; one that is gone, or that the system refuses, is passed over.
    fn sound<T>(&mut self, name: &Name, read: Result<T>) -> Option<T> {
        use mlxlm_core::Error as Core;
        let error = match read {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        self.known.remove(name);
        let is_damaged = match error {
            Error::Core(error) => matches!(error, Core::Weights(_) | Core::Conversion(_) | Core::LfsPointer { .. }),
            _ => true,
        };
        if is_damaged && io::remove_file(self.path(name)).is_ok_and(|was_there| was_there) {
            self.stats.damaged += 1;
        }
        None
    }

    /// The caches of what was found: as many tokens as the entry has now.
    pub(super) fn get(&mut self, found: &Found, key: &Key, tokens: &[u32]) -> Option<Hit> {
        let (Found(name), most) = (found, tokens.len().checked_sub(1)?);
        let path = self.path(name);
        let hit = Opened::open(&path, key).and_then(|opened| {
            if Hashes::new(key, &opened.known.tokens).name() != *name {
                return Err(opened.misnamed());
            }
            opened.hit(tokens, most, || Opened::open(&path, key))
        });
        let hit = self.sound(name, hit)?;
        if hit.is_some() {
            self.stats.hits += 1;
            // Where that is not allowed, the time of writing counts.
            io::touch(&path).ok();
        }
        hit
    }

    /// The caches of the longest beginning of a prompt that is known, with at least one token left to read.
    pub fn fetch(&mut self, key: &Key, tokens: &[u32]) -> Option<Hit> {
        for _ in 0..Self::TRIES {
            let (_, found) = self.find(key, tokens)?;
            if let Some(hit) = self.get(&found, key, tokens) {
                return Some(hit);
            }
        }
        None
    }

    /// How many tokens any entry that was looked at shares with the beginning of `tokens`.
    pub(super) fn shared(&self, key: &Key, tokens: &[u32]) -> usize {
        let related = Hashes::new(key, tokens).related(self.known.keys());
        let known = related.into_iter().filter_map(|(name, _)| self.known.get(name));
        known.map(|known| super::memory::common(&known.tokens, tokens)).max().unwrap_or(0)
    }

    /// Writes a sequence, all at once, and says whether it is there now: not if it is short, too large, or the disk is left alone.
    ///
    /// # Errors
    /// What the disk says when it refuses, once until it takes something again.
    pub fn insert(&mut self, key: &Key, tokens: &[u32], caches: &Caches, checkpoints: &[Checkpoint]) -> Result<bool> {
        rewind::check_read(caches, tokens.len())?;
        let Some(mut writing) = self.begin(key, tokens, caches, &checkpoints.iter().collect::<Vec<_>>())? else {
            return Ok(self.names().contains(&Hashes::new(key, tokens).name()));
        };
        while !self.write(&mut writing, usize::MAX)? {
            if self.paused.is_some() {
                return Ok(false);
            }
        }
        self.finish(writing)
    }

    /// Makes room for a sequence; nothing if it is not going to be written.
    pub(super) fn begin(
        &mut self,
        key: &Key,
        tokens: &[u32],
        caches: &Caches,
        checkpoints: &[&Checkpoint],
    ) -> Result<Option<Writing>> {
        if self.paused.is_some_and(|until| Instant::now() < until) || tokens.len() < self.options.min_tokens.max(1) {
            return Ok(None);
        }
        self.paused = None;
        let hashes = Hashes::new(key, tokens);
        let (name, names) = (hashes.name(), self.names());
        let plan = entry::plan(key, tokens, caches, checkpoints)?;
        if names.contains(&name) || plan.len_bytes() > self.options.limit_bytes {
            io::touch(self.path(&name)).ok();
            return Ok(None);
        }
        let lowest = rewind::lowest(caches, tokens.len());
        let is_covered = |len: usize| len >= lowest || checkpoints.iter().any(|checkpoint| checkpoint.tokens() == len);
        let related = hashes.related(&names).into_iter();
        let covered = related.filter(|(name, is_beginning)| *is_beginning && is_covered(name.tokens));
        let covered = covered.map(|(name, _)| name.clone()).collect();
        let reserved = self.reserve(&name, plan.len_bytes());
        let file = self.told_once(reserved)?.flatten();
        Ok(file.map(|file| Writing { writer: SafetensorsWriter::new(plan, file), name, covered }))
    }

    /// A file of this length, for which others go; nothing if too much is in the making.
    fn reserve(&mut self, name: &Name, len_bytes: u64) -> Result<Option<NewFile>> {
        let _lock = FolderLock::wait(self.folder.join(LOCK), LOCK_WAIT)?;
        let file = NewFile::create(self.path(name))?;
        let mut others = self.listed();
        others.retain(|other| Some(&*other.name) != file.temporary_name());
        let mut total: u64 = others.iter().map(|other| other.len_bytes).sum();
        others.sort_by_key(|other| other.modified);
        for other in others {
            if total.saturating_add(len_bytes) <= self.options.limit_bytes {
                break;
            }
            let Some(old) = Name::parse(&other.name) else { continue };
            if io::remove_file(self.path(&old))? {
                self.stats.evicted += 1;
            }
            total -= other.len_bytes;
        }
        if total.saturating_add(len_bytes) > self.options.limit_bytes {
            return Ok(None);
        }
        file.set_len(len_bytes)?;
        Ok(Some(file))
    }

    /// Writes about `max_bytes` more; true when all is written. Where the disk refuses and that was reported before, it stays at false and
    /// [`is_paused`](Self::is_paused).
    pub(super) fn write(&mut self, writing: &mut Writing, max_bytes: usize) -> Result<bool> {
        let written = writing.writer.write(max_bytes).map_err(Error::from);
        Ok(self.told_once(written)?.unwrap_or(false))
    }

    /// Gives a file that was written its name, and says whether that was possible.
    pub(super) fn finish(&mut self, writing: Writing) -> Result<bool> {
        let Writing { writer, name, covered } = writing;
        let published = writer.publish().map_err(Error::from);
        if self.told_once(published)?.is_none() {
            return Ok(false);
        }
        self.stats.written += 1;
        self.is_reported = false;
        self.known.remove(&name);
        for old in covered {
            // Nobody needs it; where it cannot be removed it goes when room is needed.
            io::remove_file(self.path(&old)).ok();
        }
        Ok(true)
    }

    /// Whether the disk has refused and is left alone.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// What was done, or the error of a disk that refuses, if it was not reported yet; after it the disk is left alone for some time.
    fn told_once<T>(&mut self, done: Result<T>) -> Result<Option<T>> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) => {
                self.stats.refused += 1;
                self.paused = Some(Instant::now() + self.options.pause);
                if std::mem::replace(&mut self.is_reported, true) { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Reads all entries, of any key, and removes those that are not what was written; how many those were.
    pub fn verify(&mut self) -> usize {
        let before = self.stats.damaged;
        for name in self.names() {
            let verified = file::Entry::verify(&self.path(&name));
            self.sound(&name, verified);
        }
        (self.stats.damaged - before) as usize
    }
}

/// The file that is locked while room is made.
const LOCK: &str = ".mlxlm-store.lock";
/// How long a writer waits for another one to make room, which takes some milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// An entry that was found.
#[derive(Debug, Clone)]
pub(super) struct Found(Name);
