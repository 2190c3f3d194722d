//! One task of attention: some queries of the heads that share a kv-head, against blocks of its keys.

use std::cell::Cell;

use super::mask::MaskView;
use super::{Rule, Spec};
use crate::kernels::convert::Results;
use crate::kernels::exp::Online;
use crate::kernels::gemm::{Serial, Target};
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::scratch::{Scratch, with_scratch};

/// Keys in a block; part of the contract, since it decides the order of sums.
pub(super) const KEYS: usize = 64;
/// Rows of queries that one task takes at most, unless the heads of one position are more.
const ROWS: usize = 64;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// What all tasks share.
pub(super) struct Job {
    pub(super) isa: Isa,
    pub(super) spec: Spec,
    pub(super) q: Heads,
    pub(super) k: Heads,
    pub(super) v: Heads,
    pub(super) mask: Option<MaskView>,
    /// A score for each head that has no value.
    pub(super) sinks: Option<Vec<f32>>,
}

/// The buffers of a task, one after the other.
struct Buffers<'a> {
    /// Queries as `[d][rows]`, of each tile.
    queries: &'a mut [f32],
    /// Scores, then weights, as `[rows][KEYS]`.
    scores: &'a mut [f32],
    /// Weights as `[KEYS][rows]`, of each tile.
    weights: &'a mut [f32],
    /// What was summed up of the values, `[rows][e]`.
    sums: &'a mut [f32],
    /// Keys or values of a block, or queries, as they come: `[KEYS][d]`.
    block: &'a mut [f32],
    /// A panel of them, packed.
    panel: &'a mut [f32],
}

impl Buffers<'_> {
    fn with<R>(isa: Isa, rows: usize, [d, e]: [usize; 2], body: impl FnOnce(Buffers<'_>) -> R) -> R {
        let panel = Serial::panel(isa, d.max(KEYS));
        // Rounded up, so that each buffer starts on a cache line.
        let sizes = [rows * d, rows * KEYS, rows * KEYS, rows * e, KEYS.max(rows) * d.max(e), panel]
            .map(|size| size.next_multiple_of(16));
        with_scratch(&BUFFER, sizes.iter().sum(), |all| {
            let (queries, all) = all.split_at_mut(sizes[0]);
            let (scores, all) = all.split_at_mut(sizes[1]);
            let (weights, all) = all.split_at_mut(sizes[2]);
            let (sums, all) = all.split_at_mut(sizes[3]);
            let (block, panel) = all.split_at_mut(sizes[4]);
            body(Buffers { queries, scores, weights, sums, block, panel })
        })
    }
}

impl Job {
    /// Query heads that share a kv-head.
    fn group(&self) -> usize {
        self.q.shape[1] / self.k.shape[1]
    }

    /// Positions of queries in one task.
    fn positions(&self) -> usize {
        (ROWS / self.group()).clamp(1, self.q.shape[2])
    }

    fn parts(&self) -> usize {
        self.q.shape[2].div_ceil(self.positions())
    }

    pub(super) fn tasks(&self) -> usize {
        self.k.shape[0] * self.k.shape[1] * self.parts()
    }

    pub(super) fn run(&self, task: usize, out: &Results) {
        // The last queries see most keys; they come first, so that no thread is left alone with them.
        let part = self.parts() - 1 - task % self.parts();
        let head = task / self.parts();
        let from = part * self.positions();
        let to = (from + self.positions()).min(self.q.shape[2]);
        let chunk = Chunk { job: self, batch: head / self.k.shape[1], kv_head: head % self.k.shape[1], from, to };
        let dims = [self.q.shape[3], self.v.shape[3]];
        Buffers::with(self.isa, chunk.rows(), dims, |buffers| chunk.run(buffers, out));
    }

    /// How many keys the query at a position sees by the rule.
    fn seen(&self, position: usize) -> usize {
        match self.spec.rule {
            Rule::All => self.k.shape[2],
            Rule::Causal => (self.k.shape[2] + position + 1).saturating_sub(self.q.shape[2]),
        }
    }
}

/// The queries `from..to` of the heads of one kv-head; rows go by position, then by head.
struct Chunk<'a> {
    job: &'a Job,
    batch: usize,
    kv_head: usize,
    from: usize,
    to: usize,
}

impl Chunk<'_> {
    fn rows(&self) -> usize {
        (self.to - self.from) * self.job.group()
    }

    /// Position and head of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.job.group();
        (self.from + row / group, self.kv_head * group + row % group)
    }

    fn run(&self, buffers: Buffers<'_>, out: &Results) {
        let Self { job, batch, .. } = *self;
        let [_, heads, len, d] = job.q.shape;
        let e = job.v.shape[3];
        let rows = self.rows();
        let Buffers { queries, scores, weights, sums, block, panel } = buffers;
        let product = Serial::new(job.isa, rows);
        self.read_queries(&mut *block);
        product.pack(block, d, d, queries);
        let mut states: Vec<Online> = (0..rows).map(|row| self.start(row)).collect();
        sums.fill(0.0);
        let most = job.seen(self.to - 1);
        for first in (0..most).step_by(KEYS) {
            let keys = KEYS.min(most - first);
            self.read_block(&job.k, first, keys, block);
            product.multiply(queries, block, [d, keys], true, 0.0, Target { c: scores, ldc: KEYS, panel });
            for (row, state) in states.iter_mut().enumerate() {
                let factor = self.weigh(row, first, &mut scores[row * KEYS..][..keys.next_multiple_of(16)], state);
                if factor.to_bits() != 1.0_f32.to_bits() {
                    for sum in &mut sums[row * e..][..e] {
                        *sum *= factor;
                    }
                }
            }
            self.read_block(&job.v, first, keys, block);
            product.pack(scores, KEYS, keys, weights);
            product.multiply(weights, block, [keys, e], false, 1.0, Target { c: sums, ldc: e, panel });
        }
        for (row, state) in states.iter().enumerate() {
            let (position, head) = self.place(row);
            let sums = &mut sums[row * e..][..e];
            for sum in sums.iter_mut() {
                *sum /= state.sum;
            }
            // SAFETY: the row is inside the result, and each is of one task.
            unsafe { out.write(job.isa, ((batch * heads + head) * len + position) * e, sums) };
        }
    }

    fn start(&self, row: usize) -> Online {
        match &self.job.sinks {
            None => Online::EMPTY,
            Some(sinks) => Online { max: sinks[self.place(row).1], sum: 1.0 },
        }
    }

    /// All rows of queries, scaled.
    fn read_queries(&self, to: &mut [f32]) {
        let d = self.job.q.shape[3];
        for (row, to) in to.chunks_exact_mut(d).enumerate().take(self.rows()) {
            let (position, head) = self.place(row);
            self.job.q.read(self.job.isa, [self.batch, head, position], to);
            for value in to {
                *value *= self.job.spec.scale;
            }
        }
    }

    fn read_block(&self, from: &Heads, first: usize, keys: usize, to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(from.shape[3]).enumerate().take(keys) {
            from.read(self.job.isa, [self.batch, self.kv_head, first + i], to);
        }
    }

    /// Turns a row's scores of a block into weights, and returns the factor for the sums so far.
    fn weigh(&self, row: usize, first: usize, scores: &mut [f32], state: &mut Online) -> f32 {
        let Job { spec, mask, isa, .. } = self.job;
        let (position, head) = self.place(row);
        let visible = self.job.seen(position).saturating_sub(first).min(scores.len());
        let (seen, hidden) = scores.split_at_mut(visible.min(self.job.k.shape[2] - first));
        if let Some(cap) = spec.softcap {
            for score in seen.iter_mut() {
                *score = cap * (*score / cap).tanh();
            }
        }
        if let Some(mask) = mask {
            mask.apply([self.batch, head, position, first], seen);
        }
        hidden.fill(f32::NEG_INFINITY);
        if seen.is_empty() {
            // This row is through; it must not even be multiplied by one.
            hidden.fill(0.0);
            return 1.0;
        }
        state.step(*isa, scores)
    }
}
