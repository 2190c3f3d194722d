//! A call cut into tasks, and the chunks of keys of one task, or of several, joined again.

use std::cell::Cell;
use std::ops::Range;

use super::few::Few;
use super::mask::MaskView;
use super::panels::Panels;
use super::rows::{self, Rows};
use super::stored::Tensor;
use super::tiles::{self, ByTiles};
use crate::fast::Causal;
use crate::kernels::convert::Results;
use crate::kernels::exp::{Online, exp};
use crate::kernels::gemm::Shared;
use crate::kernels::heads::Heads;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, with_scratch};

/// Keys whose scores exist at a time; part of the contract, since it decides the order of sums.
pub(super) const KEYS: usize = 64;
/// Keys that are a softmax of their own; part of the contract too.
pub(super) const CHUNK: usize = 16 * KEYS;
/// Rows of queries that one task takes at most, unless the heads of one position are more; and if it computes by tiles.
const ROWS: usize = 64;
const TILED_ROWS: usize = 256;
/// Positions up to which a query's result does not depend on how many others there are.
const FEW: usize = 65;
/// Tasks for each thread below which the chunks of one are given to several threads.
const BALANCED: usize = 4;

thread_local! {
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
}

/// What all tasks share.
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
    pub(super) sinks: Option<Vec<f32>>,
}

/// What rows make of some keys: the state of each row's softmax, and the sums of values under its weights.
pub(super) struct Partial<'a> {
    pub(super) states: &'a mut [Online],
    /// [`Job::width`] apart.
    pub(super) sums: &'a mut [f32],
}

impl Partial<'_> {
    fn clear(&mut self) {
        self.states.fill(Online::EMPTY);
        self.sums.fill(0.0);
    }

    /// Adds what the same rows made of later keys.
    fn join(&mut self, later: &Partial<'_>) {
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
enum Way<'a> {
    Few(Few<'a>),
    Panels(Panels<'a>),
    Tiles(ByTiles<'a>),
}

impl<'a> Way<'a> {
    fn new(rows: &'a Rows<'a>) -> Self {
        if rows.job.by_tiles() {
            Self::Tiles(ByTiles::new(rows))
        } else if rows.job.isa >= Isa::Avx512 && rows.job.q.shape[2] <= FEW {
            Self::Few(Few::new(rows))
        } else {
            Self::Panels(Panels::new(rows))
        }
    }

    /// Adds the keys of a chunk to what was made of none.
    fn add(&mut self, keys: Range<usize>, to: &mut Partial<'_>) {
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

    fn rows(&self, task: usize) -> Rows<'_> {
        let parts = self.parts();
        // The last queries see most keys; they come first, so that no thread is left alone with them.
        let (part, head) = (parts - 1 - task % parts, task / parts);
        let from = part * self.positions();
        let positions = from..(from + self.positions()).min(self.q.shape[2]);
        Rows::new(self, head / self.kv_heads(), head % self.kv_heads(), positions)
    }

    /// The chunks of keys that some rows see.
    fn chunks(&self, rows: &Rows<'_>) -> impl Iterator<Item = Range<usize>> {
        let (reach, block) = (rows.reach(), self.block());
        (reach.start / CHUNK * CHUNK..reach.end).step_by(CHUNK).map(move |chunk| {
            // Blocks that nobody sees are passed over.
            let from = chunk + reach.start.saturating_sub(chunk) / block * block;
            from..(chunk + CHUNK).min(reach.end)
        })
    }

    /// Computes the result.
    pub(super) fn run(&self, out: &Results) {
        let tasks = self.q.shape[0] * self.kv_heads() * self.parts();
        if tasks < BALANCED * pool::threads() && pool::threads() > 1 && self.key_count() > CHUNK {
            return self.run_in_pieces(tasks, out);
        }
        pool::parallel(tasks, |task| {
            let rows = self.rows(task);
            let (width, len) = (self.width(), rows.len());
            with_scratch(&SUMS, 2 * len * width, |sums| {
                let (total, part) = sums.split_at_mut(len * width);
                let mut states = [vec![Online::EMPTY; len], vec![Online::EMPTY; len]];
                let [of_total, of_part] = &mut states;
                let mut total = Partial { states: of_total, sums: total };
                let mut part = Partial { states: of_part, sums: part };
                start(&rows, &mut total);
                let mut way = Way::new(&rows);
                for keys in self.chunks(&rows) {
                    part.clear();
                    way.add(keys, &mut part);
                    total.join(&part);
                }
                rows.write(out, total.states, total.sums, width);
            });
        });
    }

    /// The same where tasks are too few: chunks of one are computed by several threads, and joined in the same order.
    fn run_in_pieces(&self, tasks: usize, out: &Results) {
        let rows: Vec<Rows<'_>> = (0..tasks).map(|task| self.rows(task)).collect();
        let pieces: Vec<(usize, Range<usize>)> =
            rows.iter().enumerate().flat_map(|(i, rows)| self.chunks(rows).map(move |keys| (i, keys))).collect();
        let (width, most) = (self.width(), rows.iter().map(Rows::len).max().unwrap_or(0));
        let mut states = vec![Online::EMPTY; pieces.len() * most];
        with_scratch(&SUMS, pieces.len() * most * width, |sums| {
            let (of_states, of_sums) = (Shared(states.as_mut_ptr()), Shared(sums.as_mut_ptr()));
            // SAFETY: a piece's part is inside the buffers; one task has it at a time.
            let part = |piece: usize, len: usize| unsafe {
                let states = std::slice::from_raw_parts_mut(of_states.get().add(piece * most), len);
                let sums = of_sums.get().add(piece * most * width);
                Partial { states, sums: std::slice::from_raw_parts_mut(sums, len * width) }
            };
            pool::parallel(pieces.len(), |piece| {
                let (i, keys) = &pieces[piece];
                let mut part = part(piece, rows[*i].len());
                part.clear();
                Way::new(&rows[*i]).add(keys.clone(), &mut part);
            });
            pool::parallel(tasks, |task| {
                let len = rows[task].len();
                with_scratch(&SUMS, len * width, |sums| {
                    let mut states = vec![Online::EMPTY; len];
                    let mut total = Partial { states: &mut states, sums };
                    start(&rows[task], &mut total);
                    for (piece, _) in pieces.iter().enumerate().filter(|(_, (i, _))| *i == task) {
                        total.join(&part(piece, len));
                    }
                    rows[task].write(out, total.states, total.sums, width);
                });
            });
        });
    }
}

/// What rows made of no keys: nothing but their sinks.
fn start(rows: &Rows<'_>, total: &mut Partial<'_>) {
    total.clear();
    for (row, state) in total.states.iter_mut().enumerate() {
        *state = rows.start(row);
    }
}
