//! Chunks by rows of keys and values read in place, with AVX-512: the driver of `lanes`.

use std::cell::Cell;
use std::ops::Range;

use mlx_rs::Dtype;

use super::job::{KEYS, Partial};
use super::lanes::{Ahead, BF16, F16, F32, Scores, Source, Sums};
use super::rows::Rows;
use super::stored::Tensor;
use crate::kernels::convert;
use crate::kernels::scratch::{Loan, Scratch, bf16_of};

/// Rows up to which a block of f16 is widened again for each few of them, which is less than to store it.
const AGAIN: usize = 4;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// Some rows of queries, as the loops want them.
pub(super) struct Few<'a> {
    rows: &'a Rows<'a>,
    /// Queries, scores, weights in bf16, then a widened block.
    buffer: Loan,
    /// f32 between queries.
    pitch: usize,
    seen: Vec<Range<usize>>,
}

/// The type in which the loops read a tensor, if they read it in place.
fn kind(tensor: &Tensor) -> Option<u8> {
    match tensor {
        Tensor::Plain(heads) if heads.dtype() == Dtype::Float32 => Some(F32),
        Tensor::Plain(heads) if heads.dtype() == Dtype::Float16 => Some(F16),
        Tensor::Plain(_) => Some(BF16),
        Tensor::Joined(_) if tensor.is_bf16() => Some(BF16),
        Tensor::Packed { .. } | Tensor::Joined(_) => None,
    }
}

/// A buffer of a block, of rows that are whole vectors.
fn block(dims: usize) -> usize {
    KEYS * dims.next_multiple_of(16)
}

impl<'a> Few<'a> {
    pub(super) fn new(rows: &'a Rows<'a>) -> Self {
        let (job, len) = (rows.job, rows.len());
        let (d, e) = (job.q.shape[3], job.values.shape()[3]);
        let padded = d.next_multiple_of(32);
        let pairs = kind(&job.keys) == Some(BF16);
        let pitch = if pairs { padded / 2 } else { padded };
        let mut buffer = Loan::new(&BUFFER, len * (padded + KEYS + KEYS / 2) + block(d.max(e)));
        let queries = &mut buffer.as_mut()[..len * padded];
        rows.read_queries(padded, queries);
        if pairs {
            let wide = queries.to_vec();
            convert::to_bf16(job.isa, &wide, &mut bf16_of(queries)[..wide.len()]);
        }
        Self { rows, buffer, pitch, seen: Vec::with_capacity(len) }
    }

    /// Adds the keys of a chunk.
    pub(super) fn add(&mut self, keys: Range<usize>, to: &mut Partial<'_>) {
        let Self { rows, buffer, pitch, seen } = self;
        let (job, len) = (rows.job, rows.len());
        let (d, e, width) = (job.q.shape[3], job.values.shape()[3], job.width());
        let (queries, rest) = buffer.as_mut().split_at_mut(len * d.next_multiple_of(32));
        let (scores, rest) = rest.split_at_mut(len * KEYS);
        let (narrow, wide) = rest.split_at_mut(len * KEYS / 2);
        let narrow = bf16_of(narrow);
        let pairs = kind(&job.values) == Some(BF16);
        for first in keys.clone().step_by(KEYS) {
            let count = KEYS.min(keys.end - first);
            seen.clear();
            seen.extend((0..len).map(|row| rows.seen_of(row, first, KEYS)));
            let mut ahead = Ahead::new(rows, first + KEYS, KEYS);
            let lines = ahead.lines().div_ceil(2 * KEYS);
            let of_keys = source(rows, &job.keys, first, count, wide);
            // SAFETY: the level was checked when this way was chosen; buffers have room for the rows and for a block.
            unsafe {
                Scores {
                    queries: queries.as_ptr(),
                    pitch: *pitch,
                    rows: len,
                    keys: of_keys,
                    count,
                    d,
                    out: scores.as_mut_ptr(),
                    ahead: &mut ahead,
                    lines,
                }
                .run();
            }
            for (row, state) in to.states.iter_mut().enumerate() {
                let row_of = row * KEYS..row * KEYS + count.next_multiple_of(16);
                let factor = if pairs {
                    rows.weigh_narrow(row, first, KEYS, &mut scores[row_of.clone()], &mut narrow[row_of], state)
                } else {
                    rows.weigh(row, first, KEYS, &mut scores[row_of], state)
                };
                if factor.to_bits() != 1.0_f32.to_bits() {
                    for sum in &mut to.sums[row * width..][..width] {
                        *sum *= factor;
                    }
                }
            }
            let of_values = source(rows, &job.values, first, count, wide);
            // SAFETY: as above.
            unsafe {
                Sums {
                    weights: if pairs { narrow.as_ptr().cast() } else { scores.as_ptr().cast() },
                    seen,
                    values: of_values,
                    e,
                    to: to.sums.as_mut_ptr(),
                    width,
                    ahead: &mut ahead,
                    lines,
                }
                .run();
            }
        }
    }
}

/// A block of keys or values: in place, or widened if that must be, or pays; copied if its rows do not lie one after the other.
fn source(rows: &Rows<'_>, tensor: &Tensor, first: usize, count: usize, wide: &mut [f32]) -> Source {
    let (dims, kind, straight) = (tensor.shape()[3], kind(tensor), rows.place.straight(first, count));
    let at = |key| [rows.batch, rows.kv_head, key];
    if let (Tensor::Plain(heads), Some(kind), Some(first)) = (tensor, kind, straight)
        && (rows.len() <= AGAIN || kind != F16)
    {
        return Source { data: heads.at(at(first)), stride: heads.stride(), kind };
    }
    let pitch = dims.next_multiple_of(16);
    let kind = if kind == Some(BF16) { BF16 } else { F32 };
    for (i, row) in wide.chunks_exact_mut(pitch).enumerate().take(count) {
        match (rows.place.key(first + i), kind == BF16) {
            (None, _) => row.fill(0.0),
            (Some(key), true) => tensor.copy(at(key), &mut bf16_of(row)[..dims]),
            (Some(key), false) => tensor.read(rows.job.isa, at(key), &mut row[..dims]),
        }
    }
    Source { data: wide.as_ptr().cast(), stride: 4 * pitch as isize, kind }
}
