//! The store that an engine uses: memory over disk.

use std::collections::VecDeque;

use super::disk::Writing;
use super::memory::Memory;
use super::{Checkpoint, DiskStats, DiskStore, Hit, Key, Limits};
use crate::{Caches, Result};
use mlxlm_core::weights::arrays_are_mapped;

/// Caches of prompts, for those that begin alike. See the [module](super) for what an engine has to do.
///
/// ```
/// use mlxlm_cache::store::{Key, Limits, PromptStore};
/// use mlxlm_cache::{Attend, CacheKind, Caches, Masks};
/// use mlxlm_core::{Array, ops};
///
/// # fn main() -> Result<(), mlxlm_cache::Error> {
/// let mut store = PromptStore::new(Limits::default());
/// let key = Key { model: "llama".into(), adapter: String::new() };
///
/// // A sequence of five tokens was read.
/// let mut caches = Caches::new(&[CacheKind::Kv]);
/// let x: Array = ops::ones::<f32>(&[1, 2, 5, 4])?;
/// caches.layer_mut(0)?.attend(&x, &x, &x, &Attend::scaled(0.5), &Masks::default())?;
/// store.insert(&key, &[1, 2, 3, 4, 5], caches, Vec::new())?;
///
/// // A prompt that begins like it goes on after three.
/// let hit = store.fetch(&key, &[1, 2, 3, 9, 9]).expect("a beginning that is known");
/// assert_eq!(hit.tokens, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PromptStore {
    memory: Memory,
    disk: Option<DiskStore>,
    /// The sequences that are to be written, the oldest first.
    pending: VecDeque<u64>,
    writing: Option<(u64, Writing)>,
    hits: u64,
    misses: u64,
}

/// What a [`PromptStore`] holds and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Prompts of which a beginning was known.
    pub hits: u64,
    /// Prompts of which none was.
    pub misses: u64,
    /// The sequences in memory.
    pub sequences: usize,
    /// Their memory, in bytes.
    pub bytes: usize,
    /// The sequences that are still to be written.
    pub pending: usize,
    /// What the store on disk has done.
    pub disk: Option<DiskStats>,
}

impl PromptStore {
    /// An empty store in memory.
    pub fn new(limits: Limits) -> Self {
        Self { memory: Memory::new(limits), disk: None, pending: VecDeque::new(), writing: None, hits: 0, misses: 0 }
    }

    /// The same over a folder: what is inserted is going to be written there, and what memory does not have is looked for there.
    #[must_use]
    pub fn with_disk(mut self, disk: DiskStore) -> Self {
        self.disk = Some(disk);
        self
    }

    /// The caches of the longest beginning of a prompt that is known, with at least one token left to read.
    pub fn fetch(&mut self, key: &Key, tokens: &[u32]) -> Option<Hit> {
        let hit = self.fetch_either(key, tokens);
        *(if hit.is_some() { &mut self.hits } else { &mut self.misses }) += 1;
        hit
    }

    fn fetch_either(&mut self, key: &Key, tokens: &[u32]) -> Option<Hit> {
        let most = tokens.len().checked_sub(1)?;
        let place = self.memory.find(key, tokens, most);
        let in_memory = place.map_or(0, |place| place.tokens);
        if let Some(disk) = &mut self.disk {
            for _ in 0..DiskStore::TRIES {
                let Some((on_disk, found)) = disk.find(key, tokens) else { break };
                // A mapped file costs the first token some pages, and caches in memory cost it all of their buffers.
                if on_disk < in_memory || (on_disk == in_memory && !arrays_are_mapped()) {
                    break;
                }
                if let Some(hit) = disk.get(&found, key, tokens).filter(|hit| hit.tokens >= in_memory) {
                    return Some(hit);
                }
            }
        }
        self.memory.get(place?)
    }

    /// Where a prompt is to be cut while it is read, for a [`Checkpoint`] at each place: numbers of tokens beyond `from`, which are
    /// known already, in order. Only for caches of which [`Checkpoint::are_needed`].
    ///
    /// `turns` are places in the prompt where others may leave it: the ends of the system prompt and of each turn. Without them it
    /// still finds the place where the prompt leaves all that is known, some close to its end, and some between.
    pub fn cuts(&self, key: &Key, tokens: &[u32], from: usize, turns: &[usize]) -> Vec<usize> {
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.shared(key, tokens));
        let parting = self.memory.shared(key, tokens).max(on_disk);
        cuts(tokens.len(), from, parting, turns)
    }

    /// Keeps the caches of a sequence, with the checkpoints that were taken of it, and says whether they have room.
    ///
    /// `tokens` are those that the caches have read, all and no others. They are in memory from now on; on the disk they are once
    /// [`write`](Self::write) has said that nothing is left. What has no room in memory is written here and now.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) if a layer has read another number of tokens, where MLX cannot compute the arrays, and as
    /// `write`.
    pub fn insert(&mut self, key: &Key, tokens: &[u32], caches: Caches, checkpoints: Vec<Checkpoint>) -> Result<bool> {
        let id = self.memory.insert(key, tokens, &caches, &checkpoints)?;
        // What has gone from memory is not to be kept alive by its being written.
        self.pending.retain(|id| self.memory.contains(*id));
        self.writing.take_if(|(id, _)| !self.memory.contains(*id));
        let place = self.memory.find(key, tokens, tokens.len());
        let is_kept = place.is_some_and(|place| place.tokens == tokens.len());
        match &mut self.disk {
            Some(disk) if !is_kept && !tokens.is_empty() => disk.insert(key, tokens, &caches, &checkpoints),
            Some(_) => {
                self.pending.extend(id);
                Ok(is_kept)
            }
            None => Ok(is_kept),
        }
    }

    /// Writes about `max_bytes` of what is to be written to disk, at least something, and says whether there is more.
    ///
    /// # Errors
    /// What the disk says when it refuses, as when it is full: once, until it takes something again. Sequences stay in memory then,
    /// and all goes on as before.
    pub fn write(&mut self, max_bytes: usize) -> Result<bool> {
        let Some(disk) = &mut self.disk else { return Ok(false) };
        let Some((id, mut writing)) = self.writing.take() else {
            let Some(id) = self.pending.pop_front() else { return Ok(false) };
            if let Some((sequence, checkpoints)) = self.memory.sequence(id) {
                let begun = disk.begin(&sequence.key, &sequence.tokens, &sequence.caches, &checkpoints)?;
                self.writing = begun.map(|writing| (id, writing));
            }
            return Ok(self.writing.is_some() || !self.pending.is_empty());
        };
        if disk.write(&mut writing, max_bytes)? {
            if disk.finish(writing)? && arrays_are_mapped() {
                self.memory.remove(id);
            }
        } else if !disk.is_paused() {
            self.writing = Some((id, writing));
        }
        Ok(self.writing.is_some() || !self.pending.is_empty())
    }

    /// Writes all that is to be written to disk.
    ///
    /// # Errors
    /// As [`write`](Self::write); what is left then is not written.
    pub fn flush(&mut self) -> Result<()> {
        while self.write(usize::MAX)? {}
        Ok(())
    }

    /// Sets other limits for the memory, as when it becomes scarce, and drops what is beyond them.
    pub fn limit(&mut self, limits: Limits) {
        self.memory.limit(limits);
        self.pending.retain(|id| self.memory.contains(*id));
        self.writing.take_if(|(id, _)| !self.memory.contains(*id));
    }

    /// The store on disk.
    pub fn disk_mut(&mut self) -> Option<&mut DiskStore> {
        self.disk.as_mut()
    }

    /// What it holds and has done.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            hits: self.hits,
            misses: self.misses,
            sequences: self.memory.len(),
            bytes: self.memory.nbytes(),
            pending: self.pending.len() + usize::from(self.writing.is_some()),
            disk: self.disk.as_ref().map(DiskStore::stats),
        }
    }
}

/// See [`PromptStore::cuts`]; `parting` is how much of the prompt is known.
fn cuts(len: usize, from: usize, parting: usize, turns: &[usize]) -> Vec<usize> {
    /// The next prompt may leave this one a few tokens before its end, where the template announces the answer.
    const TAIL: usize = 16;
    /// How far checkpoints between lie apart at least, and how many there are of them.
    const STRIDE: usize = 1024;
    const BETWEEN: usize = 4;
    let Some(last) = len.checked_sub(1) else { return Vec::new() };
    let stride = (len / (BETWEEN + 1)).next_multiple_of(256).max(STRIDE);
    let between = (from.next_multiple_of(stride)..last).step_by(stride);
    let mut cuts: Vec<usize> =
        turns.iter().copied().chain([parting, last.saturating_sub(TAIL), last]).chain(between).collect();
    cuts.retain(|cut| (from + 1..=last).contains(cut));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
