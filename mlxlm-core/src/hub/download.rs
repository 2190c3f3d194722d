//! One file from the hub into the cache: resumed where it was left, checked, then renamed into place.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::HubError;
use super::hash::Hasher;
use super::layout::RepoCache;
use super::listing::Entry;
use super::progress::{Event, Progress};
use super::wire::{ATTEMPTS, Wire, root_cause};
use crate::{Error, Result, io};

/// Downloads of one commit. Shared by the threads that each take a file.
pub(super) struct Download<'a> {
    pub wire: &'a Wire<'a>,
    pub cache: &'a RepoCache,
    pub commit: &'a str,
    pub progress: &'a Progress,
    /// Set when one file has failed, so that the others stop soon; what they have stays for the next time.
    pub stop: &'a AtomicBool,
}

impl Download<'_> {
    /// Makes sure that the snapshot has this file.
    pub(super) fn fetch(&self, entry: &Entry) -> Result<()> {
        if self.cache.has(self.commit, entry, self.progress) {
            return Ok(());
        }
        let _guard = self.cache.lock(entry, self.progress)?;
        if !self.cache.has_blob(entry, self.progress) {
            let partial = self.cache.partial(entry);
            if let Some(blobs) = partial.parent() {
                io::create_dir_all(blobs)?;
            }
            let resumed = fs::metadata(&partial).is_ok_and(|found| found.len() > 0);
            match self.fill(entry, &partial) {
                // The part of an earlier day may be of a damaged disk or a broken client: once more, from the start.
                Err(Error::Hub(HubError::WrongContent { .. })) if resumed => self.fill(entry, &partial)?,
                other => other?,
            }
            let blob = self.cache.blob(entry);
            io::rename(&partial, &blob)?;
            self.cache.note_sound(&blob, &entry.hash);
        }
        self.cache.link(self.commit, entry)?;
        self.report(entry, entry.size_bytes);
        Ok(())
    }

    /// Brings the file to its full size and checks it. What turns out wrong is removed.
    fn fill(&self, entry: &Entry, path: &Path) -> Result<()> {
        let mut partial = Partial::open(path, entry)?;
        let mut failures = 0;
        while partial.size_bytes < entry.size_bytes {
            self.report(entry, partial.size_bytes);
            let before = partial.size_bytes;
            let Some(cause) = self.append(entry, &mut partial)? else { continue };
            failures = if partial.size_bytes > before { 1 } else { failures + 1 };
            if failures == ATTEMPTS || self.stopped() {
                return Err(HubError::Interrupted {
                    file: entry.path.clone(),
                    got_bytes: partial.size_bytes,
                    expected_bytes: entry.size_bytes,
                    cause,
                }
                .into());
            }
            let pause = self.wire.pause(failures);
            self.progress.report(Event::Retry { file: &entry.path, cause: &cause, pause });
            std::thread::sleep(pause);
        }
        partial.check(entry)
    }

    /// Writes what one response brings; says why where that is not all.
    fn append(&self, entry: &Entry, partial: &mut Partial) -> Result<Option<String>> {
        const PIECE_BYTES: usize = 256 << 10;
        let (start, mut response) = self.wire.bytes(self.commit, &entry.path, partial.size_bytes)?;
        if start != partial.size_bytes {
            partial.clear(entry)?;
        }
        let mut piece = vec![0; PIECE_BYTES];
        while partial.size_bytes <= entry.size_bytes {
            if self.stopped() {
                return Ok(Some("another file failed".to_owned()));
            }
            match response.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    partial.push(&piece[..read])?;
                    self.report(entry, partial.size_bytes.min(entry.size_bytes));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(root_cause(&error))),
            }
        }
        let short = partial.size_bytes < entry.size_bytes;
        Ok(short.then(|| "the connection was closed".to_owned()))
    }

    fn report(&self, entry: &Entry, done_bytes: u64) {
        self.progress.report(Event::File { file: &entry.path, done_bytes, total_bytes: entry.size_bytes });
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A file that is being downloaded, with the hash of what it holds so far.
struct Partial {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    hasher: Hasher,
}

impl Partial {
    /// Opens what an earlier attempt left, or a new file.
    fn open(path: &Path, entry: &Entry) -> Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(path);
        let file = file.map_err(|source| Error::Io { action: "create", path: path.to_owned(), source })?;
        let mut partial =
            Self { path: path.to_owned(), file, size_bytes: 0, hasher: Hasher::new(&entry.hash, entry.size_bytes) };
        partial.read_back(entry)?;
        Ok(partial)
    }

    /// Hashes what is there. More than the whole file is of no use.
    fn read_back(&mut self, entry: &Entry) -> Result<()> {
        let found_bytes = self.file.metadata().map_err(|source| self.failed("read", source))?.len();
        if found_bytes > entry.size_bytes {
            return self.clear(entry);
        }
        let size_bytes = &mut self.size_bytes;
        let read = self.hasher.update_all(&mut self.file, &mut |bytes| *size_bytes += bytes);
        read.map_err(|source| self.failed("read", source))
    }

    fn clear(&mut self, entry: &Entry) -> Result<()> {
        self.file.set_len(0).map_err(|source| self.failed("write", source))?;
        self.size_bytes = 0;
        self.hasher = Hasher::new(&entry.hash, entry.size_bytes);
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| self.failed("write", source))?;
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Compares size and hash with the listing; brings the bytes safely to disk, or removes them.
    fn check(self, entry: &Entry) -> Result<()> {
        let wrong = |what, got, expected| {
            let _ = fs::remove_file(&self.path);
            Err(HubError::WrongContent { file: entry.path.clone(), what, got, expected }.into())
        };
        if self.size_bytes != entry.size_bytes {
            return wrong("size", format!("over {} bytes", entry.size_bytes), format!("{}", entry.size_bytes));
        }
        let got = self.hasher.hex();
        if got != entry.hash.as_str() {
            return wrong("hash", got, entry.hash.as_str().to_owned());
        }
        self.file.sync_all().map_err(|source| self.failed("write", source))
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::Io { action, path: self.path.clone(), source }
    }
}
