//! Chunks by way of f32 panels and the product of [`crate::kernels::gemm`], at every level.

use std::cell::Cell;
use std::ops::Range;

use super::job::{KEYS, Partial};
use super::rows::Rows;
use super::stored::Tensor;
use crate::kernels::gemm::{Serial, Target};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// Some rows of queries, packed.
pub(super) struct Panels<'a> {
    rows: &'a Rows<'a>,
    product: Serial,
    /// `[d][rows]`, of each tile.
    queries: Vec<f32>,
}

impl<'a> Panels<'a> {
    pub(super) fn new(rows: &'a Rows<'a>) -> Self {
        let (len, d) = (rows.len(), rows.job.q.shape[3]);
        let product = Serial::new(rows.job.isa, len);
        let mut plain = vec![0.0; len * d];
        rows.read_queries(d, &mut plain);
        let mut queries = vec![0.0; len * d];
        product.pack(&plain, d, d, &mut queries);
        Self { rows, product, queries }
    }

    /// Adds the keys of a chunk.
    pub(super) fn add(&mut self, keys: Range<usize>, to: &mut Partial<'_>) {
        let Self { rows, product, queries } = self;
        let (job, len) = (rows.job, rows.len());
        let (d, e, width) = (job.q.shape[3], job.values.shape()[3], job.width());
        // Scores, then weights, as `[rows][KEYS]`; the same as `[KEYS][rows]`; keys or values of a block; a panel of them, packed.
        let sizes = [len * KEYS, len * KEYS, KEYS * d.max(e), Serial::panel(job.isa, d.max(KEYS))]
            .map(|size| size.next_multiple_of(16));
        with_scratch(&BUFFER, sizes.iter().sum(), |all| {
            let (scores, all) = all.split_at_mut(sizes[0]);
            let (weights, all) = all.split_at_mut(sizes[1]);
            let (block, panel) = all.split_at_mut(sizes[2]);
            for first in keys.clone().step_by(KEYS) {
                let count = KEYS.min(keys.end - first);
                read_block(rows, &job.keys, first, count, block);
                let target = Target { c: &mut *scores, ldc: KEYS, panel: &mut *panel };
                product.multiply(queries, block, [d, count], true, 0.0, target);
                for (row, state) in to.states.iter_mut().enumerate() {
                    let scores = &mut scores[row * KEYS..][..count.next_multiple_of(16)];
                    let factor = rows.weigh(row, first, KEYS, scores, state);
                    if factor.to_bits() != 1.0_f32.to_bits() {
                        for sum in &mut to.sums[row * width..][..e] {
                            *sum *= factor;
                        }
                    }
                }
                read_block(rows, &job.values, first, count, block);
                product.pack(scores, KEYS, count, weights);
                let mut add = |values: &[f32], sums: &mut [f32]| {
                    let target = Target { c: sums, ldc: width, panel: &mut *panel };
                    product.multiply(weights, values, [count, e], false, 1.0, target);
                };
                let values = &block[..count * e];
                let seen = |row| rows.seen_of(row, first, count);
                if (0..len).all(|row| seen(row) == (0..count)) || values.iter().all(|value| value.is_finite()) {
                    add(values, to.sums);
                    continue;
                }
                // What a row does not see must not be multiplied even by zero.
                let before = to.sums.to_vec();
                for row in 0..len {
                    let (mut values, mut sums, seen) = (values.to_vec(), before.clone(), seen(row));
                    values[..seen.start * e].fill(0.0);
                    values[seen.end * e..].fill(0.0);
                    add(&values, &mut sums);
                    let row = row * width..(row + 1) * width;
                    to.sums[row.clone()].copy_from_slice(&sums[row]);
                }
            }
        });
    }
}

fn read_block(rows: &Rows<'_>, from: &Tensor, first: usize, count: usize, to: &mut [f32]) {
    for (i, to) in to.chunks_exact_mut(from.shape()[3]).enumerate().take(count) {
        match rows.place.key(first + i) {
            Some(key) => from.read(rows.job.isa, [rows.batch, rows.kv_head, key], to),
            None => to.fill(0.0),
        }
    }
}
