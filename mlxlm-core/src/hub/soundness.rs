//! Whether the bytes of a blob are still those that its name promises.
//!
//! A blob is hashed once, when it comes or when it is first met, and a stamp beside its lock remembers its size and when
//! it was last changed. As long as these stay, it counts as sound; else it is hashed again. Where no stamp can be
//! written, nothing could be mended either, and blobs are taken as they are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::hash::{Hash, Hasher};
use super::layout::RepoCache;
use super::progress::{Event, Progress};
use crate::io;

impl RepoCache {
    /// Whether the file at `path`, a blob or a link to one, holds the bytes of which this is the hash. `name` is what the
    /// user knows it by.
    pub(super) fn is_sound(&self, path: &Path, hash: &Hash, name: &str, progress: &Progress) -> bool {
        let Some(now) = state(path) else { return false };
        let stamp = self.stamp(hash);
        if io::read_to_string(&stamp).is_ok_and(|checked| checked == now) {
            return true;
        }
        // No stamp yet, one of other bytes, or a place that cannot be written to.
        if self.write_stamp(hash, "not checked yet").is_err() {
            return true;
        }
        let sound = has_hash(path, hash, name, progress);
        if sound {
            let _ = self.write_stamp(hash, &now);
        }
        sound
    }

    /// Notes that the blob, which was just written, was checked.
    pub(super) fn note_sound(&self, blob: &Path, hash: &Hash) {
        if let Some(now) = state(blob) {
            // Without a stamp it is checked again the next time.
            let _ = self.write_stamp(hash, &now);
        }
    }

    fn write_stamp(&self, hash: &Hash, text: &str) -> crate::Result<()> {
        let stamp = self.stamp(hash);
        stamp.parent().map_or(Ok(()), io::create_dir_all)?;
        io::write(stamp, text)
    }
}

/// What changes when the bytes of a file do.
fn state(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(format!("{} {}.{:09} {}\n", found.len(), found.mtime(), found.mtime_nsec(), found.ino()))
}

fn has_hash(path: &Path, hash: &Hash, name: &str, progress: &Progress) -> bool {
    let Ok(mut file) = io::open(path) else { return false };
    let Ok(total_bytes) = file.metadata().map(|found| found.len()) else { return false };
    let mut hasher = Hasher::new(hash, total_bytes);
    let mut done_bytes = 0;
    let read = hasher.update_all(&mut file, &mut |bytes| {
        done_bytes += bytes;
        progress.report(Event::Check { file: name, done_bytes, total_bytes });
    });
    read.is_ok() && hasher.hex() == hash.as_str()
}
