//! Sequences in memory: found by their beginning, dropped by last use.
//!
//! The sequences of a model are kept in the order of their tokens, as the leaves of a trie are: those that share most with a prompt are
//! its neighbours there, and further away they share ever less.
//!
//! - A sequence whose caches another one can be taken back to is not kept beside that: it becomes a checkpoint of it, or nothing
//!   where none is needed.
//! - A checkpoint that several sequences have counts once.
//! - Room is made before something is added, so that the limits hold at every moment.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound;
use std::sync::Arc;

use mlxlm_core::transforms;

use super::{Checkpoint, Hit, Key, Limits, rewind};
use crate::{Caches, LayerCache, Result};

/// The checkpoints that a sequence has at most.
const MOST_CHECKPOINTS: usize = 16;

/// Caches by the tokens that they have read.
#[derive(Debug)]
pub(super) struct Memory {
    limits: Limits,
    by_tokens: BTreeMap<Key, BTreeMap<Arc<[u32]>, u64>>,
    sequences: BTreeMap<u64, Sequence>,
    /// The sequences by their last use, the oldest first.
    order: BTreeMap<u64, u64>,
    checkpoints: Pool,
    bytes: usize,
    clock: u64,
}

/// A sequence that is kept.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) key: Key,
    pub(super) tokens: Arc<[u32]>,
    pub(super) caches: Caches,
    /// In the order of their places.
    checkpoints: Vec<u64>,
    /// The fewest tokens that the caches can be taken back to.
    lowest: usize,
    bytes: usize,
    used: u64,
}

/// Where a prompt can go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    sequence: u64,
    /// The tokens that need not be read.
    pub(super) tokens: usize,
    /// The checkpoint there, if it is needed.
    checkpoint: Option<u64>,
}

impl Memory {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_tokens: BTreeMap::new(),
            sequences: BTreeMap::new(),
            order: BTreeMap::new(),
            checkpoints: Pool::default(),
            bytes: 0,
            clock: 0,
        }
    }

    /// The longest beginning of `tokens`, of at most `most` of them, that some caches have read.
    pub(super) fn find(&self, key: &Key, tokens: &[u32], most: usize) -> Option<Place> {
        let mut best: Option<Place> = None;
        for (shared, id) in self.neighbours(key, tokens) {
            if best.is_some_and(|best| shared.min(most) <= best.tokens) {
                break;
            }
            let Some(place) = self.place(id, shared.min(most)) else { continue };
            best = best.filter(|best| best.tokens >= place.tokens).or(Some(place));
        }
        best
    }

    /// How many tokens each sequence shares with the beginning of `tokens`, as many as any first.
    fn neighbours(&self, key: &Key, tokens: &[u32]) -> impl Iterator<Item = (usize, u64)> {
        let known = self.by_tokens.get(key);
        let range = move |bounds: (Bound<&[u32]>, Bound<&[u32]>)| known.map(|known| known.range::<[u32], _>(bounds));
        let before = range((Bound::Unbounded, Bound::Excluded(tokens))).into_iter().flatten().rev();
        let after = range((Bound::Included(tokens), Bound::Unbounded)).into_iter().flatten();
        let shared = |(other, &id): (&Arc<[u32]>, &u64)| (common(other, tokens), id);
        let (mut before, mut after) = (before.map(shared).peekable(), after.map(shared).peekable());
        iter::from_fn(move || match (before.peek(), after.peek()) {
            (Some((a, _)), Some((b, _))) if a > b => before.next(),
            (_, Some(_)) => after.next(),
            _ => before.next(),
        })
        .take_while(|(shared, _)| *shared > 0)
    }

    /// Where a sequence can be gone back to, at `most` tokens or as few less as possible.
    fn place(&self, id: u64, most: usize) -> Option<Place> {
        let sequence = self.sequences.get(&id)?;
        let len = sequence.tokens.len();
        if len <= most || sequence.lowest <= most {
            return Some(Place { sequence: id, tokens: len.min(most), checkpoint: None })
                .filter(|place| place.tokens > 0);
        }
        let checkpoints = sequence.checkpoints.iter().rev().filter_map(|id| self.checkpoints.get(*id));
        let checkpoint =
            checkpoints.filter(|checkpoint| (1..=most).contains(&checkpoint.tokens())).max_by_key(|c| c.tokens())?;
        Some(Place { sequence: id, tokens: checkpoint.tokens(), checkpoint: Some(checkpoint.id()) })
    }

    /// How many tokens any sequence shares with the beginning of `tokens`.
    pub(super) fn shared(&self, key: &Key, tokens: &[u32]) -> usize {
        self.neighbours(key, tokens).next().map_or(0, |(shared, _)| shared)
    }

    /// The caches at a place, which counts as a use of its sequence.
    pub(super) fn get(&mut self, place: Place) -> Option<Hit> {
        let sequence = self.sequences.get(&place.sequence)?;
        let (seen, tokens) = (sequence.tokens.len(), place.tokens);
        let checkpoints: Vec<Checkpoint> = self.checkpoints_of(sequence, tokens).cloned().collect();
        let caches = match place.checkpoint {
            Some(id) => self.checkpoints.get(id)?.caches(&sequence.caches, seen, true)?,
            None => back_to(&sequence.caches, seen, tokens)?,
        };
        self.touch(place.sequence);
        Some(Hit::new(caches, tokens, checkpoints))
    }

    /// The checkpoints of a sequence within its first `most` tokens.
    fn checkpoints_of<'a>(&'a self, sequence: &'a Sequence, most: usize) -> impl Iterator<Item = &'a Checkpoint> {
        let all = sequence.checkpoints.iter().filter_map(|id| self.checkpoints.get(*id));
        all.filter(move |checkpoint| checkpoint.tokens() <= most)
    }

    fn touch(&mut self, id: u64) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        self.order.remove(&sequence.used);
        self.clock += 1;
        sequence.used = self.clock;
        self.order.insert(self.clock, id);
    }

    /// Keeps caches that have read `tokens`, and says under which number; nothing if they have no room or are there already.
    pub(super) fn insert(
        &mut self,
        key: &Key,
        tokens: &[u32],
        caches: &Caches,
        checkpoints: &[Checkpoint],
    ) -> Result<Option<u64>> {
        rewind::check_read(caches, tokens.len())?;
        let caches = compact(caches)?;
        let lowest = rewind::lowest(&caches, tokens.len());
        let mut checkpoints = checkpoints.to_vec();
        if let Some(id) = self.longer(key, tokens) {
            self.add_to(id, &caches, tokens.len(), checkpoints)?;
            return Ok(None);
        }
        for id in self.shorter(key, tokens) {
            let Some(old) = self.sequences.get(&id) else { continue };
            checkpoints.extend(self.checkpoints_of(old, usize::MAX).cloned());
            if old.tokens.len() < lowest {
                checkpoints.push(Checkpoint::take(&old.caches, old.tokens.len())?);
            }
            self.remove(id);
        }
        let mut checkpoints = thinned(checkpoints, lowest.min(tokens.len()));
        let bytes = caches.nbytes();
        // Checkpoints are worth less than the sequence; the last ones are worth most.
        while bytes + sum(&checkpoints) > self.limits.bytes && !checkpoints.is_empty() {
            checkpoints.remove(0);
        }
        if bytes > self.limits.bytes || self.limits.sequences == 0 || tokens.is_empty() {
            return Ok(None);
        }
        while self.sequences.len() >= self.limits.sequences
            || self.nbytes() + bytes + self.checkpoints.new_bytes(&checkpoints) > self.limits.bytes
        {
            if !self.evict(None) {
                return Ok(None);
            }
        }
        self.clock += 1;
        let (id, tokens): (u64, Arc<[u32]>) = (self.clock, tokens.into());
        self.by_tokens.entry(key.clone()).or_default().insert(Arc::clone(&tokens), id);
        self.order.insert(self.clock, id);
        self.bytes += bytes;
        let checkpoints = checkpoints.into_iter().map(|checkpoint| self.checkpoints.add(checkpoint)).collect();
        let sequence = Sequence { key: key.clone(), tokens, caches, checkpoints, lowest, bytes, used: self.clock };
        self.sequences.insert(id, sequence);
        Ok(Some(id))
    }

    /// The sequence that is `tokens`, or begins with them.
    fn longer(&self, key: &Key, tokens: &[u32]) -> Option<u64> {
        let known = self.by_tokens.get(key)?;
        let (next, id) = known.range::<[u32], _>((Bound::Included(tokens), Bound::Unbounded)).next()?;
        next.starts_with(tokens).then_some(*id)
    }

    /// The sequences that `tokens` begins with.
    fn shorter(&self, key: &Key, tokens: &[u32]) -> Vec<u64> {
        let neighbours = self.neighbours(key, tokens);
        let len = |id: &u64| self.sequences.get(id).map_or(usize::MAX, |sequence| sequence.tokens.len());
        neighbours.filter(|(shared, id)| len(id) == *shared).map(|(_, id)| id).collect()
    }

    /// Adds to a sequence what is known of its first `len` tokens.
    fn add_to(&mut self, id: u64, caches: &Caches, len: usize, mut checkpoints: Vec<Checkpoint>) -> Result<()> {
        self.touch(id);
        let Some(sequence) = self.sequences.get(&id) else { return Ok(()) };
        if len < sequence.tokens.len() && len < sequence.lowest {
            checkpoints.push(Checkpoint::take(caches, len)?);
        }
        let before: Vec<Checkpoint> = self.checkpoints_of(sequence, usize::MAX).cloned().collect();
        let mut all = thinned(before.into_iter().chain(checkpoints).collect(), sequence.lowest);
        while sequence.bytes + sum(&all) > self.limits.bytes && !all.is_empty() {
            all.remove(0);
        }
        while self.nbytes() + self.checkpoints.new_bytes(&all) > self.limits.bytes {
            if !self.evict(Some(id)) {
                // Only checkpoints that go anyway are in the way.
                break;
            }
        }
        let Some(sequence) = self.sequences.get_mut(&id) else { return Ok(()) };
        let old = std::mem::take(&mut sequence.checkpoints);
        let kept: Vec<u64> = all.iter().map(Checkpoint::id).collect();
        for id in old.iter().filter(|id| !kept.contains(id)) {
            self.checkpoints.release(*id);
        }
        for checkpoint in all.into_iter().filter(|checkpoint| !old.contains(&checkpoint.id())) {
            self.checkpoints.add(checkpoint);
        }
        sequence.checkpoints = kept;
        Ok(())
    }

    /// Drops the sequence whose last use is longest ago, other than `except`; false if there is none.
    fn evict(&mut self, except: Option<u64>) -> bool {
        let oldest = self.order.values().copied().find(|&id| Some(id) != except);
        oldest.is_some_and(|id| self.remove(id))
    }

    /// Drops a sequence; false if it is not there.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(sequence) = self.sequences.remove(&id) else { return false };
        self.order.remove(&sequence.used);
        if let Some(known) = self.by_tokens.get_mut(&sequence.key) {
            known.remove(&sequence.tokens);
            if known.is_empty() {
                self.by_tokens.remove(&sequence.key);
            }
        }
        self.bytes -= sequence.bytes;
        for checkpoint in sequence.checkpoints {
            self.checkpoints.release(checkpoint);
        }
        true
    }

    /// Sets other limits, and drops what is beyond them.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        while (self.sequences.len() > limits.sequences || self.nbytes() > limits.bytes) && self.evict(None) {}
    }

    /// A sequence, and its checkpoints.
    pub(super) fn sequence(&self, id: u64) -> Option<(&Sequence, Vec<&Checkpoint>)> {
        let sequence = self.sequences.get(&id)?;
        Some((sequence, self.checkpoints_of(sequence, usize::MAX).collect()))
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.sequences.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// The memory of all that is kept, in bytes.
    pub(super) fn nbytes(&self) -> usize {
        self.bytes + self.checkpoints.bytes
    }
}

/// Checkpoints, each with the number of sequences that have it.
#[derive(Debug, Default)]
struct Pool {
    held: BTreeMap<u64, (Checkpoint, usize)>,
    bytes: usize,
}

impl Pool {
    fn get(&self, id: u64) -> Option<&Checkpoint> {
        self.held.get(&id).map(|(checkpoint, _)| checkpoint)
    }

    fn add(&mut self, checkpoint: Checkpoint) -> u64 {
        let (id, bytes) = (checkpoint.id(), checkpoint.nbytes());
        let (_, users) = self.held.entry(id).or_insert_with(|| {
            self.bytes += bytes;
            (checkpoint, 0)
        });
        *users += 1;
        id
    }

    fn release(&mut self, id: u64) {
        let Some((checkpoint, users)) = self.held.get_mut(&id) else { return };
        *users -= 1;
        if *users == 0 {
            self.bytes -= checkpoint.nbytes();
            self.held.remove(&id);
        }
    }

    /// The bytes of those that are not here yet.
    fn new_bytes(&self, checkpoints: &[Checkpoint]) -> usize {
        let new = checkpoints.iter().filter(|checkpoint| !self.held.contains_key(&checkpoint.id()));
        new.map(Checkpoint::nbytes).sum()
    }
}

fn sum(checkpoints: &[Checkpoint]) -> usize {
    checkpoints.iter().map(Checkpoint::nbytes).sum()
}

/// One checkpoint for each place before `end`, in order, and not too many: where they lie closest, one goes.
fn thinned(mut checkpoints: Vec<Checkpoint>, end: usize) -> Vec<Checkpoint> {
    checkpoints.retain(|checkpoint| (1..end).contains(&checkpoint.tokens()));
    checkpoints.sort_by_key(Checkpoint::tokens);
    checkpoints.dedup_by_key(|checkpoint| checkpoint.tokens());
    while checkpoints.len() > MOST_CHECKPOINTS {
        let gap = |i: &usize| checkpoints[i + 1].tokens() - checkpoints[i - 1].tokens();
        let closest = (1..checkpoints.len() - 1).min_by_key(gap).unwrap_or(0);
        checkpoints.remove(closest);
    }
    checkpoints
}

/// All layers as they were after `tokens` of `seen` tokens.
fn back_to(caches: &Caches, seen: usize, tokens: usize) -> Option<Caches> {
    let layers = caches.layers().iter().map(|layer| rewind::back_to(layer, seen, tokens, true));
    layers.collect::<Option<Vec<_>>>().map(Caches::from_layers)
}

/// The caches, computed, with arrays that keep nothing but themselves in memory.
fn compact(caches: &Caches) -> Result<Caches> {
    transforms::eval(caches.arrays())?;
    let layers = caches.layers().iter().map(rewind::compact).collect::<Result<Vec<LayerCache>>>()?;
    Ok(Caches::from_layers(layers))
}

/// How many tokens two sequences begin with alike.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
