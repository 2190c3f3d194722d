//! A few rows of f32 against a quantized matrix, for AVX-512 and 2, 4 or 8 bits: the driver of [`lanes`].
//!
//! What is unusual:
//! - Codes are multiplied as they are, looked up as small numbers around zero, and a group's scale is applied to the
//!   group's sum.
//! - A vector of 16 words is shifted field by field, so a lane sees every n-th column. The activations are put into that order once.
//! - The biases (moved by half the range of codes times the scale) meet the groups' sums of activations at the end.
//! - A row's chain of sums depends on its own values only: blocks and tiles merely pause it.

use std::cell::Cell;

use super::lanes::{self, Dot, Order};
use super::weights::{E2M1, Weights};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::quant::Mode;

/// Rows of `x` in one pass over the weights.
const TILE: usize = 8;
/// Rows of weights that pass by one block of activations.
const BLOCK: usize = 16;
/// Activations of a tile that stay in the first-level cache, in bytes.
const BLOCK_BYTES: usize = 32 << 10;
/// Below this many multiply-adds another core is not worth waking.
const SERIAL: usize = 200_000;

thread_local! {
    static ORDERED: Scratch = const { Cell::new(Vec::new()) };
    static GROUP_SUMS: Scratch = const { Cell::new(Vec::new()) };
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
    static PARAMS: Scratch = const { Cell::new(Vec::new()) };
}

/// Whether [`multiply`] can be used.
pub(super) fn covers(isa: Isa, w: &Weights<'_>) -> bool {
    isa >= Isa::Avx512 && matches!(w.bits(), 2 | 4 | 8) && w.scheme.mode != Mode::Mxfp8
}

/// What all tasks of a product share.
struct Job<'a, 'w> {
    w: &'a Weights<'w>,
    m: usize,
    order: Order,
    /// What a field of 2 or 4 bits stands for.
    table: [f32; 16],
    scale_of_lane: [i32; 16],
    ordered: &'a [f32],
    group_sums: &'a [f32],
    /// Groups, rounded up to whole vectors.
    padded: usize,
}

/// `out = x @ w.T` for finite `x` of `m` rows. Returns the rows that were left out because their sums are not finite, where
/// `0 · ∞` would differ from unpacked weights.
pub(super) fn multiply(x: &[f32], m: usize, w: &Weights<'_>, out: &mut [f32]) -> Vec<usize> {
    assert!(Isa::best() >= Isa::Avx512 && x.len() == m * w.columns && out.len() == m * w.rows);
    let order = Order::new(w.bits());
    let padded = w.groups().next_multiple_of(16);
    let row_floats = order.row_floats(w.columns);
    with_scratch(&ORDERED, m * row_floats, |ordered| {
        with_scratch(&GROUP_SUMS, m * padded, |group_sums| {
            let (to, sums) = (Shared(ordered.as_mut_ptr()), Shared(group_sums.as_mut_ptr()));
            let prepare = |row: usize| {
                let x = &x[row * w.columns..][..w.columns];
                let (tile, height, place) = tile_of(row, m);
                // SAFETY: the level was checked; rows have places of their own.
                unsafe {
                    let tile = to.get().add(tile * row_floats);
                    lanes::arrange(x, order, tile, height, place);
                    let sums = std::slice::from_raw_parts_mut(sums.get().add(row * padded), padded);
                    lanes::group_sums(x, w.group(), sums);
                }
            };
            if m * w.columns < SERIAL / 4 {
                (0..m).for_each(prepare);
            } else {
                pool::parallel(m, prepare);
            }
            let scale_of_lane = lanes::scale_of_lane(w.bits(), w.group());
            let job = Job { w, m, order, table: table(w), scale_of_lane, ordered, group_sums, padded };
            let c = Shared(out.as_mut_ptr());
            let parts = if m * w.rows * w.columns < SERIAL { 1 } else { 4 * pool::threads() };
            pool::parallel_ranges(w.rows, BLOCK, parts, |from, to| {
                for first in (from..to).step_by(BLOCK) {
                    job.block(first, BLOCK.min(to - first), c);
                }
            });
            let odd = |row: &usize| group_sums[row * padded..][..padded].iter().any(|s| !s.is_finite());
            (0..m).filter(odd).collect()
        })
    })
}

/// The first row, the height, and the row's place in the tile that a row falls into; tiles have nearly the same height.
fn tile_of(row: usize, m: usize) -> (usize, usize, usize) {
    let tiles = m.div_ceil(TILE);
    let tile = (0..tiles).rev().find(|t| t * m / tiles <= row).unwrap_or(0);
    let (from, to) = (tile * m / tiles, (tile + 1) * m / tiles);
    (from, to - from, row - from)
}

fn table(w: &Weights<'_>) -> [f32; 16] {
    match w.scheme.mode {
        Mode::Affine => {
            let bits = w.bits().min(4);
            std::array::from_fn(|i| (i % (1 << bits)) as f32 - f32::from(1_u8 << (bits - 1)))
        }
        _ => E2M1,
    }
}

impl Job<'_, '_> {
    /// All rows of `x` against the rows `first..first + rows` of the matrix.
    fn block(&self, first: usize, rows: usize, out: Shared<f32>) {
        let (w, m) = (self.w, self.m);
        // Scales may be read a vector beyond their end.
        let stride = self.padded + 16;
        with_scratch(&PARAMS, rows * 2 * stride, |params| {
            for (i, params) in params.chunks_exact_mut(2 * stride).enumerate() {
                let (scales, biases) = params.split_at_mut(stride);
                let centre = if w.scheme.mode == Mode::Affine { f32::from(1_u8 << (w.bits() - 1)) } else { 0.0 };
                // SAFETY: the level was checked in `multiply`.
                unsafe { lanes::params(w, first + i, centre, scales, biases) };
            }
            with_scratch(&SUMS, rows * m * 16, |sums| {
                sums.fill(0.0);
                self.dots(first, rows, params, sums);
                let block = lanes::Block { sums, m, params, stride: 2 * stride };
                for row in 0..m {
                    let group_sums = &self.group_sums[row * self.padded..][..self.padded];
                    // SAFETY: the level was checked in `multiply`; a task writes its own columns.
                    unsafe {
                        let out = std::slice::from_raw_parts_mut(out.get().add(row * w.rows + first), rows);
                        lanes::finish(&block, row, group_sums, out);
                    }
                }
            });
        });
    }

    fn dots(&self, first: usize, rows: usize, params: &[f32], sums: &mut [f32]) {
        let (w, m) = (self.w, self.m);
        let chunks = self.order.chunks(w.columns);
        let tiles = m.div_ceil(TILE);
        let per_block = (BLOCK_BYTES / (m.div_ceil(tiles) * self.order.columns() * 4)).max(1);
        for chunk in (0..chunks).step_by(per_block) {
            let end = (chunk + per_block).min(chunks);
            for tile in 0..tiles {
                let (from, to) = (tile * m / tiles, (tile + 1) * m / tiles);
                let x = &self.ordered[from * self.order.row_floats(w.columns)..];
                for i in 0..rows {
                    let words = w.row(first + i);
                    let dot = Dot {
                        words: &words[chunk * 16..(end * 16).min(words.len())],
                        first_chunk: chunk,
                        scales: &params[2 * i * (self.padded + 16)..][..self.padded + 16],
                        group: w.group(),
                        x: &x[chunk * (to - from) * self.order.columns()..],
                        table: &self.table,
                        scale_of_lane: &self.scale_of_lane,
                    };
                    // SAFETY: the level was checked in `multiply`.
                    unsafe { lanes::dot(self.order, &dot, &mut sums[(i * m + from) * 16..(i * m + to) * 16]) };
                }
            }
        }
    }
}
