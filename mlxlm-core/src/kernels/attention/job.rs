//! What all tasks of a call share, and how one of them computes a chunk of keys.

use std::ops::Range;

use super::few::Few;
use super::mask::MaskView;
use super::panels::Panels;
use super::rows::{self, Rows};
use super::stored::Tensor;
use super::tiles::{self, ByTiles};
use crate::fast::Causal;
use crate::kernels::INVARIANT_ROWS;
use crate::kernels::convert::Results;
use crate::kernels::exp::{Online, exp};
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;

/// Keys whose scores exist at a time; part of the contract, since it decides the order of sums.
pub(super) const KEYS: usize = 64;
/// Keys that are a softmax of their own; part of the contract too.
pub(super) const CHUNK: usize = 16 * KEYS;
/// Rows of queries that one task takes at most, unless the heads of one position are more; and if it computes by tiles.
const ROWS: usize = 64;
const TILED_ROWS: usize = 256;

/// What all tasks of a call share. The rows of a batch that each own their keys are as many jobs.
pub(super) struct Job<'a> {
    pub(super) isa: Isa,
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    pub(super) rule: Option<&'a Causal>,
    pub(super) q: Heads,
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
    pub(super) mask: Option<MaskView>,
    /// A score for each head that has no value.
    pub(super) sinks: Option<&'a [f32]>,
    pub(super) out: Results,
}

/// What rows make of some keys: the state of each row's softmax, and the sums of values under its weights.
pub(super) struct Partial<'a> {
    pub(super) states: &'a mut [Online],
    /// [`Job::width`] apart.
    pub(super) sums: &'a mut [f32],
}

impl Partial<'_> {
    pub(super) fn clear(&mut self) {
        self.states.fill(Online::EMPTY);
        self.sums.fill(0.0);
    }

    /// Adds what the same rows made of later keys.
    pub(super) fn join(&mut self, later: &Partial<'_>) {
        let width = self.sums.len() / self.states.len();
        let rows = self.sums.chunks_exact_mut(width).zip(later.sums.chunks_exact(width));
        for ((state, later), (sums, more)) in self.states.iter_mut().zip(&*later.states).zip(rows) {
            if later.max == f32::NEG_INFINITY && later.sum == 0.0 {
                continue;
            }
            let max = state.max.max(later.max);
            let [a, b] = [state.max, later.max].map(|m| exp(m - max));
            *state = Online { max, sum: state.sum * a + later.sum * b };
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum = *sum * a + *more * b;
            }
        }
    }
}

/// How the chunks of a task are computed.
pub(super) enum Way<'a> {
    Few(Few<'a>),
    Panels(Panels<'a>),
    Tiles(ByTiles<'a>),
}

impl<'a> Way<'a> {
    pub(super) fn new(rows: &'a Rows<'a>) -> Self {
        if rows.job.by_tiles() {
            Self::Tiles(ByTiles::new(rows))
        } else if rows.job.isa >= Isa::Avx512 && rows.job.q.shape[2] <= INVARIANT_ROWS {
            Self::Few(Few::new(rows))
        } else {
            Self::Panels(Panels::new(rows))
        }
    }

    /// Adds the keys of a chunk to what was made of none.
    pub(super) fn add(&mut self, keys: Range<usize>, to: &mut Partial<'_>) {
        match self {
            Self::Few(few) => few.add(keys, to),
            Self::Panels(panels) => panels.add(keys, to),
            Self::Tiles(tiles) => tiles.add(keys, to),
        }
    }
}

impl Job<'_> {
    /// Query heads that share a kv-head.
    pub(super) fn group(&self) -> usize {
        self.q.shape[1] / self.kv_heads()
    }

    fn by_tiles(&self) -> bool {
        ByTiles::takes(self.isa, self.q.dtype())
    }

    /// Keys of a block, which begin at multiples of it.
    fn block(&self) -> usize {
        if self.by_tiles() { tiles::KEYS } else { KEYS }
    }

    fn kv_heads(&self) -> usize {
        self.keys.shape()[1]
    }

    pub(super) fn key_count(&self) -> usize {
        self.keys.shape()[2]
    }

    /// The distance of sums: values of a row, rounded up to whole vectors.
    pub(super) fn width(&self) -> usize {
        self.values.shape()[3].next_multiple_of(16)
    }

    /// Positions of queries in one task.
    fn positions(&self) -> usize {
        let rows = if self.by_tiles() { TILED_ROWS } else { ROWS };
        (rows / self.group()).clamp(1, self.q.shape[2])
    }

    fn parts(&self) -> usize {
        self.q.shape[2].div_ceil(self.positions())
    }

    /// The keys that the query at a position sees by the rule, by their numbers in the order of time.
    pub(super) fn seen(&self, batch: usize, position: usize) -> Range<usize> {
        let keys = self.key_count();
        rows::seen(self.rule, batch, (keys + position).saturating_sub(self.q.shape[2]), keys)
    }

    pub(super) fn tasks(&self) -> usize {
        self.q.shape[0] * self.kv_heads() * self.parts()
    }

    /// The positions of a task's queries, and its head, counted through the batch.
    fn queries(&self, task: usize) -> (Range<usize>, usize) {
        let parts = self.parts();
        // The last queries see most keys; they come first, so that no thread is left alone with them.
        let (part, head) = (parts - 1 - task % parts, task / parts);
        let from = part * self.positions();
        (from..(from + self.positions()).min(self.q.shape[2]), head)
    }

    pub(super) fn rows(&self, task: usize) -> Rows<'_> {
        let (positions, head) = self.queries(task);
        Rows::new(self, head / self.kv_heads(), head % self.kv_heads(), positions)
    }

    /// The keys that a task's queries see: later queries see neither earlier first keys nor earlier last ones.
    pub(super) fn reach(&self, task: usize) -> usize {
        let (positions, head) = self.queries(task);
        let seen = |position| self.seen(head / self.kv_heads(), position);
        seen(positions.end - 1).end - seen(positions.start).start
    }

    /// The chunks of keys that some rows see.
    pub(super) fn chunks(&self, rows: &Rows<'_>) -> impl Iterator<Item = Range<usize>> {
        let (reach, block) = (rows.reach(), self.block());
        (reach.start / CHUNK * CHUNK..reach.end).step_by(CHUNK).map(move |chunk| {
            // Blocks that nobody sees are passed over.
            let from = chunk + reach.start.saturating_sub(chunk) / block * block;
            from..(chunk + CHUNK).min(reach.end)
        })
    }
}
