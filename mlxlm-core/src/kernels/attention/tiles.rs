//! Chunks by way of the matrix tiles of AMX, for queries in bf16: decode and prefill alike.
//!
//! A block of keys is packed so that its columns are keys, a block of values so that neighbouring keys lie side by side; both serve
//! all rows of the task. Scores and sums are f32, the weights in between are rounded to bf16. Quantized keys and values are
//! rounded to bf16 as they are unpacked.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

use half::bf16;
use mlx_rs::Dtype;

use super::job::{CHUNK, Partial};
use super::lanes::{Ahead, BF16, Source};
use super::rows::Rows;
use super::stored::Tensor;
use crate::kernels::amx::{self, Config, Tiles};
use crate::kernels::convert;
use crate::kernels::isa::Isa;
use crate::kernels::scratch::{Loan, Scratch};

/// Keys whose scores exist at a time.
pub(super) const KEYS: usize = 128;
const _: () = assert!(CHUNK.is_multiple_of(KEYS) && KEYS.is_multiple_of(64));
/// Rows, and f32 columns, of a tile.
const SIDE: usize = 16;
/// bf16 columns of a tile.
const DEPTH: usize = 32;
/// Values of bf16 in a tile.
const TILE: usize = SIDE * DEPTH;

thread_local! {
    static BUFFER: Scratch = const { Cell::new(Vec::new()) };
}

/// Some rows of queries, as the tiles want them.
pub(super) struct ByTiles<'a> {
    rows: &'a Rows<'a>,
    buffer: Loan,
    sizes: [usize; 7],
    config: Config,
}

/// The parts of the buffer.
struct Parts<'a> {
    /// `[rows][d]`, `d` rounded up to [`DEPTH`].
    queries: &'a mut [bf16],
    /// Tiles `[keys / 16][d / 32]` of `[d / 2][16]` pairs.
    keys: &'a mut [bf16],
    /// Tiles `[2 e / 32][keys / 32]` of `[keys / 2][16]` pairs; two of them share 32 columns, see [`ORDER`].
    values: &'a mut [bf16],
    /// A block of keys or values as it comes, where it is quantized, and one row of it.
    unpacked: (&'a mut [bf16], &'a mut [f32]),
    /// `[16][KEYS]`
    scores: &'a mut [f32],
    /// `[16][KEYS]`
    weights: &'a mut [bf16],
    /// `[16][64]`
    products: &'a mut [f32],
}

/// Which of the 16 columns of a tile and those of its twin the first 16 and the last 16 of their 32 columns are.
const ORDER: [[i32; 16]; 2] = [
    [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23],
    [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31],
];

fn as_bf16(values: &mut [f32]) -> &mut [bf16] {
    // SAFETY: an f32 has room for two bf16, which may be any bits.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), 2 * values.len()) }
}

impl<'a> ByTiles<'a> {
    /// Whether a job can be computed so.
    pub(super) fn takes(isa: Isa, dtype: Dtype) -> bool {
        isa >= Isa::Amx && dtype == Dtype::Bfloat16
    }

    pub(super) fn new(rows: &'a Rows<'a>) -> Self {
        let (job, len) = (rows.job, rows.len());
        let [d, e] = [job.q.shape[3], job.values.shape()[3]].map(|dims| dims.next_multiple_of(DEPTH));
        let padded = len.next_multiple_of(SIDE);
        let packed = [&job.keys, &job.values].into_iter().any(|tensor| matches!(tensor, Tensor::Packed { .. }));
        let most = if packed { d.max(e) } else { 0 };
        let sizes = [
            padded * d / 2,
            KEYS * d / 2,
            KEYS * e / 2,
            (KEYS / 2 + 1) * most,
            SIDE * KEYS,
            SIDE * KEYS / 2,
            SIDE * 64,
        ];
        let mut buffer = Loan::new(&BUFFER, sizes.iter().sum());
        let mut wide = vec![0.0; padded * d];
        rows.read_queries(d, &mut wide);
        convert::to_bf16(job.isa, &wide, as_bf16(&mut buffer.as_mut()[..sizes[0]]));
        let height = len.min(SIDE);
        let (side, row) = ((height, amx::ROW), (SIDE, amx::ROW));
        // Sums, queries or weights, keys or values.
        let config = Config::new([side, side, side, side, side, row, row, row]);
        Self { rows, buffer, sizes, config }
    }

    fn parts(buffer: &mut Loan, sizes: [usize; 7]) -> Parts<'_> {
        let mut rest = buffer.as_mut();
        let mut next = |i: usize| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(sizes[i]);
            rest = others;
            part
        };
        let (queries, keys, values) = (as_bf16(next(0)), as_bf16(next(1)), as_bf16(next(2)));
        let unpacked = next(3);
        let row = unpacked.len() / (KEYS / 2 + 1);
        let (row, block) = unpacked.split_at_mut(row);
        let unpacked = (as_bf16(block), row);
        Parts { queries, keys, values, unpacked, scores: next(4), weights: as_bf16(next(5)), products: next(6) }
    }

    /// Adds the keys of a chunk.
    pub(super) fn add(&mut self, keys: Range<usize>, to: &mut Partial<'_>) {
        // SAFETY: the level was checked when this way was chosen, and tasks do not nest.
        let _tiles = unsafe { Tiles::configure(&self.config) };
        let rows = self.rows;
        for first in keys.clone().step_by(KEYS) {
            let count = KEYS.min(keys.end - first);
            let mut parts = Self::parts(&mut self.buffer, self.sizes);
            // SAFETY: the level was checked.
            let finite = unsafe { parts.pack(rows, first, count) };
            for tile in (0..rows.len()).step_by(SIDE) {
                let height = SIDE.min(rows.len() - tile);
                let seen = |row: usize| rows.seen_of(tile + row, first, KEYS);
                let end = (0..height).map(|row| seen(row).end).max().unwrap_or(0);
                if (0..height).all(|row| seen(row).is_empty()) {
                    continue;
                }
                // SAFETY: the level was checked; all parts have room for a tile of rows and a block of keys.
                unsafe {
                    parts.score(tile, rows.job.q.shape[3], end);
                    let factors = parts.weigh(rows, first, tile, height, end, to);
                    if finite || (0..height).all(|row| seen(row) == (0..count)) {
                        parts.sum(rows, tile, 0..height, &factors, end, to);
                        continue;
                    }
                    // What a row does not see must not be multiplied even by zero.
                    for row in 0..height {
                        parts.pack_values(rows, first, seen(row));
                        parts.sum(rows, tile, row..row + 1, &factors, end, to);
                    }
                }
            }
        }
    }
}

impl Parts<'_> {
    /// Packs a block of keys and of values, and says whether the values are finite.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack(&mut self, rows: &Rows<'_>, first: usize, count: usize) -> bool {
        let dims = rows.job.q.shape[3];
        let keys = self.source(rows, &rows.job.keys, first, 0..count);
        let ahead = Ahead::new(rows, &rows.job.keys, first + KEYS, KEYS);
        let depth = dims.div_ceil(DEPTH);
        for tile in 0..count.div_ceil(SIDE) {
            (tile * SIDE..(tile + 1) * SIDE).for_each(|key| ahead.fetch(key));
            for k in 0..depth {
                let mask = ones((dims - k * DEPTH).min(DEPTH));
                let mut lines = [_mm512_setzero_si512(); SIDE];
                for (i, line) in lines.iter_mut().enumerate() {
                    let key = tile * SIDE + i;
                    if key < count {
                        // SAFETY: masked columns of a key of the block are inside it.
                        *line = unsafe { load(keys.row(key).add(k * DEPTH * 2), mask) };
                    }
                }
                let to = &mut self.keys[(tile * depth + k) * TILE..][..TILE];
                for (to, line) in to.chunks_exact_mut(DEPTH).zip(transpose(&lines)) {
                    // SAFETY: 64 bytes are written to 32 values.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), line) };
                }
            }
        }
        // SAFETY: passed on from the caller.
        unsafe { self.pack_values(rows, first, 0..count) }
    }

    /// Packs the values of some keys of a block, with zeros for the others, and says whether they are finite.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack_values(&mut self, rows: &Rows<'_>, first: usize, keys: Range<usize>) -> bool {
        let dims = rows.job.values.shape()[3];
        let values = self.source(rows, &rows.job.values, first, keys.clone());
        let ahead = Ahead::new(rows, &rows.job.values, first + KEYS, KEYS);
        let exponent = _mm512_set1_epi16(0x7F80);
        let mut odd = 0;
        for pair in 0..keys.end.next_multiple_of(DEPTH) / 2 {
            ahead.fetch(2 * pair);
            ahead.fetch(2 * pair + 1);
            for column in (0..dims).step_by(DEPTH) {
                let mask = ones((dims - column).min(DEPTH));
                let mut lines = [_mm512_setzero_si512(); 2];
                for (i, line) in lines.iter_mut().enumerate() {
                    let key = 2 * pair + i;
                    if keys.contains(&key) {
                        // SAFETY: masked columns of a key of the block are inside it.
                        *line = unsafe { load(values.row(key).add(column * 2), mask) };
                        odd |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(*line, exponent), exponent);
                    }
                }
                let [a, b] = lines;
                let at = (column / SIDE * (KEYS / DEPTH) + pair / SIDE) * TILE + pair % SIDE * DEPTH;
                let twin = at + KEYS / DEPTH * TILE;
                let to = &mut self.values[at..twin + DEPTH];
                // SAFETY: 64 bytes are written to 32 values, twice.
                unsafe {
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_unpacklo_epi16(a, b));
                    _mm512_storeu_si512(to.as_mut_ptr().add(twin - at).cast(), _mm512_unpackhi_epi16(a, b));
                }
            }
        }
        odd == 0
    }

    /// Some keys of a block of keys or values: in place, or unpacked.
    fn source(&mut self, rows: &Rows<'_>, tensor: &Tensor, first: usize, keys: Range<usize>) -> Source {
        let at = |key: usize| [rows.batch, rows.kv_head, key];
        if let Tensor::Plain(heads) = tensor {
            return Source { data: heads.at(at(first)), stride: heads.stride(), kind: BF16 };
        }
        let (block, row) = &mut self.unpacked;
        let (dims, pitch) = (tensor.shape()[3], row.len());
        for key in keys {
            tensor.read(rows.job.isa, at(first + key), &mut row[..dims]);
            convert::to_bf16(rows.job.isa, &row[..dims], &mut block[key * pitch..][..dims]);
        }
        Source { data: block.as_ptr().cast(), stride: 2 * pitch as isize, kind: BF16 }
    }

    /// The scores of a tile of rows and the first `count` keys, rounded up to 64.
    ///
    /// # Safety
    /// [`Tiles`] must live on this thread.
    unsafe fn score(&mut self, tile: usize, dims: usize, count: usize) {
        let depth = dims.div_ceil(DEPTH);
        let queries = self.queries[tile * depth * DEPTH..].as_ptr().cast::<u8>();
        let keys = self.keys.as_ptr().cast::<u8>();
        for four in (0..count.div_ceil(SIDE)).step_by(4) {
            // SAFETY: queries and keys are as long as was packed, and scores have rows of KEYS.
            unsafe {
                amx::zero::<0>();
                amx::zero::<1>();
                amx::zero::<2>();
                amx::zero::<3>();
                for k in 0..depth {
                    let at = |key: usize| keys.add(((four + key) * depth + k) * TILE * 2);
                    amx::load::<4>(queries.add(k * amx::ROW), depth * amx::ROW);
                    amx::load::<5>(at(0), amx::ROW);
                    amx::dot_bf16::<0, 4, 5>();
                    amx::load::<6>(at(1), amx::ROW);
                    amx::dot_bf16::<1, 4, 6>();
                    amx::load::<7>(at(2), amx::ROW);
                    amx::dot_bf16::<2, 4, 7>();
                    amx::load::<5>(at(3), amx::ROW);
                    amx::dot_bf16::<3, 4, 5>();
                }
                let to = self.scores.as_mut_ptr().add(four * SIDE).cast::<u8>();
                amx::store::<0>(to, KEYS * 4);
                amx::store::<1>(to.add(amx::ROW), KEYS * 4);
                amx::store::<2>(to.add(2 * amx::ROW), KEYS * 4);
                amx::store::<3>(to.add(3 * amx::ROW), KEYS * 4);
            }
        }
    }

    /// Turns the scores of a tile of rows into weights, and returns the factors for the sums so far.
    fn weigh(
        &mut self,
        rows: &Rows<'_>,
        first: usize,
        tile: usize,
        height: usize,
        count: usize,
        to: &mut Partial<'_>,
    ) -> [f32; SIDE] {
        let mut factors = [1.0; SIDE];
        let len = count.next_multiple_of(DEPTH);
        for (row, factor) in factors.iter_mut().enumerate().take(height) {
            let scores = &mut self.scores[row * KEYS..][..len];
            *factor = rows.weigh(tile + row, first, KEYS, scores, &mut to.states[tile + row]);
            convert::to_bf16(rows.job.isa, scores, &mut self.weights[row * KEYS..][..len]);
        }
        factors
    }

    /// Multiplies the sums of some rows of a tile with their factors and adds the first `count` values under their weights.
    ///
    /// # Safety
    /// The machine must have AMX, and [`Tiles`] live on this thread.
    #[target_feature(enable = "avx512f")]
    unsafe fn sum(
        &mut self,
        rows: &Rows<'_>,
        tile: usize,
        of: Range<usize>,
        factors: &[f32; SIDE],
        count: usize,
        to: &mut Partial<'_>,
    ) {
        let (e, width) = (rows.job.values.shape()[3], rows.job.width());
        let (weights, products) = (self.weights.as_ptr().cast::<u8>(), self.products.as_mut_ptr());
        for column in (0..e).step_by(64) {
            let both = e - column > DEPTH;
            // SAFETY: weights have rows of KEYS, values tiles for all columns, products rows of 64.
            unsafe {
                amx::zero::<0>();
                amx::zero::<1>();
                amx::zero::<2>();
                amx::zero::<3>();
                for k in 0..count.div_ceil(DEPTH) {
                    let at = |twin: usize| {
                        let tile = (column / SIDE + twin) * (KEYS / DEPTH) + k;
                        self.values.as_ptr().cast::<u8>().add(tile * TILE * 2)
                    };
                    amx::load::<4>(weights.add(k * amx::ROW), KEYS * 2);
                    amx::load::<5>(at(0), amx::ROW);
                    amx::dot_bf16::<0, 4, 5>();
                    amx::load::<6>(at(1), amx::ROW);
                    amx::dot_bf16::<1, 4, 6>();
                    if both {
                        amx::load::<7>(at(2), amx::ROW);
                        amx::dot_bf16::<2, 4, 7>();
                        amx::load::<5>(at(3), amx::ROW);
                        amx::dot_bf16::<3, 4, 5>();
                    }
                }
                let to = products.cast::<u8>();
                amx::store::<0>(to, 256);
                amx::store::<1>(to.add(amx::ROW), 256);
                amx::store::<2>(to.add(2 * amx::ROW), 256);
                amx::store::<3>(to.add(3 * amx::ROW), 256);
            }
            for row in of.clone() {
                let factor = _mm512_set1_ps(factors[row]);
                let sums = &mut to.sums[(tile + row) * width..][..width];
                for (i, sums) in sums[column..].chunks_exact_mut(16).enumerate().take(4) {
                    // SAFETY: 16 values are read and written of 16, and two rows of 16 products of 64.
                    unsafe {
                        let from = products.add(row * 64 + i / 2 * 32);
                        let order = _mm512_loadu_si512(ORDER[i % 2].as_ptr().cast());
                        let more = _mm512_permutex2var_ps(_mm512_loadu_ps(from), order, _mm512_loadu_ps(from.add(16)));
                        _mm512_storeu_ps(
                            sums.as_mut_ptr(),
                            _mm512_fmadd_ps(_mm512_loadu_ps(sums.as_ptr()), factor, more),
                        );
                    }
                }
            }
        }
    }
}

/// Ones for the first of 32 values.
fn ones(values: usize) -> u32 {
    if values >= 32 { u32::MAX } else { (1 << values) - 1 }
}

/// 32 values of 16 bits, those under the mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load(from: *const u8, mask: u32) -> __m512i {
    // SAFETY: the caller vouches for the values under the mask.
    unsafe {
        if mask == u32::MAX { _mm512_loadu_si512(from.cast()) } else { _mm512_maskz_loadu_epi16(mask, from.cast()) }
    }
}

/// Columns of 16 × 16 values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut fours = [_mm512_setzero_si512(); 16];
    for i in (0..16).step_by(4) {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        fours[i] = _mm512_unpacklo_epi64(ab, cd);
        fours[i + 1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        fours[i + 2] = _mm512_unpacklo_epi64(ab, cd);
        fours[i + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    let mut columns = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        let [a, b, c, d] = [fours[i], fours[i + 4], fours[i + 8], fours[i + 12]];
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        columns[i] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        columns[i + 4] = _mm512_shuffle_i32x4::<0xDD>(ab, cd);
        let (ab, cd) = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
        columns[i + 8] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        columns[i + 12] = _mm512_shuffle_i32x4::<0xDD>(ab, cd);
    }
    columns
}
