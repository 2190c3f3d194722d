//! The prompt-cache store: what was read once is not read again, also by the next process.
//!
//! A [`PromptStore`] keeps the caches of sequences by [`Key`] (model and adapter) and tokens, in memory and, if it is given a
//! [`DiskStore`], in a folder. [`fetch`](PromptStore::fetch) gives the caches of the longest beginning of a prompt that is known,
//! and leaves at least one token to read.
//!
//! # What the engine has to do
//!
//! 1. `fetch`, then read on from [`Hit::tokens`].
//! 2. Where [`Checkpoint::are_needed`] (recurrent states, windows), cut the prompt at [`PromptStore::cuts`] while it is read, and
//!    [`Checkpoint::take`] one at each cut. They are cheap: keys and values of all tokens are not in them. Give back those of the hit
//!    with them.
//! 3. When the sequence ends, [`insert`](PromptStore::insert) its caches under exactly the tokens that they have read; then
//!    [`write`](PromptStore::write) some megabytes between steps until there is nothing left, and [`flush`](PromptStore::flush)
//!    before the process leaves.
//!
//! Why cuts: caches that keep all tokens can go back to any of them, so that one sequence serves every prompt that shares a
//! beginning with it. A recurrent state cannot, and a window that has dropped tokens cannot. There a prompt can go on only from where
//! a checkpoint was taken: at the ends of turns, close to the end of the prompt (the next prompt leaves it there if the thinking of
//! the answer is stripped, whatever the template), and where sequences were seen to part.
//!
//! # Costs
//!
//! Caches from memory share their arrays with the store, so that their first token copies the buffers that it goes into. Those from
//! disk are mapped (on a CPU): to have them takes as long for a hundred thousand tokens as for a thousand, their first token copies
//! the pages that it goes into, and they live in the system's page cache. So a sequence that is on the disk is not kept in memory
//! besides, where files are mapped.

mod checkpoint;
mod disk;
mod memory;
mod prompt;
mod rewind;

pub use checkpoint::Checkpoint;
pub use disk::{DiskOptions, DiskStats, DiskStore};
pub use prompt::{PromptStore, StoreStats};

use crate::Caches;

/// What caches belong to beside their tokens: only under the same key are they used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The model, by whatever changes when its weights do: a path with a revision, or a hash. A draft model is part of it, if its
    /// caches are kept too, and so is the way in which keys and values are quantized.
    pub model: String,
    /// The adapter, likewise; empty for none.
    pub adapter: String,
}

/// How much is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most sequences.
    pub sequences: usize,
    /// The most memory, in bytes: caches with their room for more tokens, and checkpoints.
    pub bytes: usize,
}

impl Default for Limits {
    /// Ten sequences of any size, as in mlx-lm.
    fn default() -> Self {
        Self { sequences: 10, bytes: usize::MAX }
    }
}

/// Caches that have read the beginning of a prompt.
#[derive(Debug)]
pub struct Hit {
    /// The caches.
    pub caches: Caches,
    /// The tokens that they have read: fewer than the prompt has.
    pub tokens: usize,
    /// Checkpoints of these tokens, in order: to be given to [`PromptStore::insert`] with those that are taken while the rest is read.
    pub checkpoints: Vec<Checkpoint>,
}

impl Hit {
    /// A hit with a checkpoint of its own place, if its caches need one.
    fn new(caches: Caches, tokens: usize, mut checkpoints: Vec<Checkpoint>) -> Self {
        let is_there = checkpoints.last().is_some_and(|checkpoint| checkpoint.tokens() == tokens);
        if !is_there && !caches.layers().iter().all(rewind::is_always_trimmable) {
            checkpoints.push(Checkpoint::shared(&caches, tokens));
        }
        Self { caches, tokens, checkpoints }
    }
}
