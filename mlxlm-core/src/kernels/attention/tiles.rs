//! Chunks by way of the matrix tiles of AMX, for queries in bf16: decode and prefill alike.
//!
//! A block of keys is packed so that its columns are keys, a block of values so that neighbouring keys lie side by side; both serve
//! all rows of the task. For the few rows of a decoding step keys are read in place, and it is the scores that are turned: the same
//! sums, with their factors exchanged. Scores and sums are f32, the weights in between are rounded to bf16. Quantized keys and values are
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
use crate::kernels::scratch::{Loan, Scratch, bf16_of};

/// Keys whose scores exist at a time.
pub(super) const KEYS: usize = 256;
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
    sizes: [usize; 8],
    config: Config,
    /// Rows of queries that are turned, so that keys are read in place; 0 where they are packed.
    turned: usize,
}

/// The parts of the buffer.
struct Parts<'a> {
    /// `[rows][d]`, `d` rounded up to [`DEPTH`].
    queries: &'a mut [bf16],
    /// Tiles `[keys / 16][d / 32]` of `[d / 2][16]` pairs.
    keys: &'a mut [bf16],
    /// Tiles `[2 e / 32][keys / 32]` of `[keys / 2][16]` pairs; two of them share 32 columns, see [`ORDER`].
    values: &'a mut [bf16],
    /// A block of keys or values as it comes, where it is not read in place, and one row of it.
    unpacked: (&'a mut [bf16], &'a mut [f32]),
    /// `[16][KEYS]`
    scores: &'a mut [f32],
    /// `[16][KEYS]`
    weights: &'a mut [bf16],
    /// `[16][e]`, `e` rounded up to 64.
    products: &'a mut [f32],
    /// Tiles `[d / 32]` of `[d / 2][rows]` pairs of queries, then 16 keys and a tile of scores.
    turned: &'a mut [bf16],
}

/// Which of the 16 columns of a tile and those of its twin the first 16 and the last 16 of their 32 columns are.
const ORDER: [[i32; 16]; 2] = [
    [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23],
    [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31],
];

impl<'a> ByTiles<'a> {
    /// Whether a job can be computed so.
    pub(super) fn takes(isa: Isa, dtype: Dtype) -> bool {
        isa >= Isa::Amx && dtype == Dtype::Bfloat16
    }

    pub(super) fn new(rows: &'a Rows<'a>) -> Self {
        let (job, len) = (rows.job, rows.len());
        let [d, e] = [job.q.shape[3], job.values.shape()[3]].map(|dims| dims.next_multiple_of(DEPTH));
        let padded = len.next_multiple_of(SIDE);
        let packed = [&job.keys, &job.values].into_iter().any(|tensor| !matches!(tensor, Tensor::Plain(_)));
        let most = if packed || !rows.place.is_plain() { d.max(e) } else { 0 };
        // A tile is read from whole rows, whatever lies behind them.
        let in_place = matches!(job.keys, Tensor::Plain(_)) && job.q.shape[3] == d;
        let turned = match len {
            _ if !in_place => 0,
            ..=4 => 4,
            5..=SIDE => SIDE,
            _ => 0,
        };
        let sizes = [
            padded * d / 2,
            KEYS * d / 2,
            KEYS * e / 2,
            (KEYS / 2 + 1) * most,
            SIDE * KEYS,
            SIDE * KEYS / 2,
            SIDE * e.next_multiple_of(64),
            if turned == 0 { 0 } else { turned * d / 2 + SIDE * d / 2 + SIDE * SIDE },
        ];
        let mut buffer = Loan::new(&BUFFER, sizes.iter().sum());
        let mut wide = vec![0.0; padded * d];
        rows.read_queries(d, &mut wide);
        convert::to_bf16(job.isa, &wide, bf16_of(&mut buffer.as_mut()[..sizes[0]]));
        let (side, row) = ((len.min(SIDE), amx::ROW), (SIDE, amx::ROW));
        // Sums, queries or weights, keys or values.
        let mut shapes = [side, side, side, side, side, row, row, row];
        if turned > 0 {
            // Turned queries, and scores.
            shapes[6..].fill((SIDE, 4 * turned));
            let (height, width) = (turned, d / 2);
            let parts = Self::parts(&mut buffer, sizes);
            let pairs = |values: &[bf16], at: usize| [values[2 * at], values[2 * at + 1]];
            for (at, to) in parts.turned.chunks_exact_mut(2).enumerate().take(height * width) {
                let (pair, row) = (at / height, at % height);
                to.copy_from_slice(&if row < len { pairs(parts.queries, row * width + pair) } else { [bf16::ZERO; 2] });
            }
        }
        Self { rows, buffer, sizes, config: Config::new(shapes), turned }
    }

    fn parts(buffer: &mut Loan, sizes: [usize; 8]) -> Parts<'_> {
        let mut rest = buffer.as_mut();
        let mut next = |i: usize| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(sizes[i]);
            rest = others;
            part
        };
        let (queries, keys, values) = (bf16_of(next(0)), bf16_of(next(1)), bf16_of(next(2)));
        let unpacked = next(3);
        let row = unpacked.len() / (KEYS / 2 + 1);
        let (row, block) = unpacked.split_at_mut(row);
        let unpacked = (bf16_of(block), row);
        Parts {
            queries,
            keys,
            values,
            unpacked,
            scores: next(4),
            weights: bf16_of(next(5)),
            products: next(6),
            turned: bf16_of(next(7)),
        }
    }

    /// Adds the keys of a chunk.
    pub(super) fn add(&mut self, keys: Range<usize>, to: &mut Partial<'_>) {
        // SAFETY: the level was checked when this way was chosen, and tasks do not nest.
        let _tiles = unsafe { Tiles::configure(&self.config) };
        let rows = self.rows;
        for first in keys.clone().step_by(KEYS) {
            let count = KEYS.min(keys.end - first);
            let mut parts = Self::parts(&mut self.buffer, self.sizes);
            let mut ahead = Ahead::new(rows, first + KEYS, KEYS);
            let lines = ahead.lines().div_ceil(KEYS / SIDE);
            // SAFETY: the level was checked.
            unsafe {
                if self.turned == 0 {
                    parts.pack_keys(rows, first, count, &mut ahead);
                } else {
                    parts.score_in_place(rows, self.turned, first, count, &mut ahead);
                }
                parts.pack_values(rows, first, 0..count, &mut ahead);
            }
            for tile in (0..rows.len()).step_by(SIDE) {
                let height = SIDE.min(rows.len() - tile);
                let seen = |row: usize| rows.seen_of(tile + row, first, count);
                // The first or the last row of a tile sees most on its side.
                let end = seen(0).end.max(seen(height - 1).end);
                let start = seen(0).start.min(seen(height - 1).start);
                if start >= end {
                    continue;
                }
                // SAFETY: the level was checked; all parts have room for a tile of rows and a block of keys.
                unsafe {
                    if self.turned == 0 {
                        parts.score(tile, rows.job.q.shape[3], end);
                    }
                    ahead.fetch(3 * lines);
                    let factors = parts.weigh(rows, first, tile, height, end, to);
                    let finite = parts.sum(rows, end);
                    ahead.fetch(3 * lines);
                    if finite || (0..height).all(|row| seen(row) == (0..count)) {
                        parts.add(tile, 0..height, &factors, to);
                        continue;
                    }
                    // What a row does not see must not be multiplied even by zero.
                    for row in 0..height {
                        parts.pack_values(rows, first, seen(row), &mut ahead);
                        parts.sum(rows, seen(row).end);
                        parts.add(tile, row..row + 1, &factors, to);
                    }
                    parts.pack_values(rows, first, 0..count, &mut ahead);
                }
            }
        }
    }
}

impl Parts<'_> {
    /// Packs a block of keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack_keys(&mut self, rows: &Rows<'_>, first: usize, count: usize, ahead: &mut Ahead) {
        let dims = rows.job.q.shape[3];
        let keys = self.source(rows, &rows.job.keys, first, 0..count);
        // A third while keys are packed, a third while values are, and the rest later.
        let lines = ahead.lines().div_ceil(KEYS / SIDE * 3);
        let depth = dims.div_ceil(DEPTH);
        for tile in 0..count.div_ceil(SIDE) {
            for k in 0..depth {
                ahead.fetch(lines.div_ceil(depth));
                let mask = ones((dims - k * DEPTH).min(DEPTH));
                let mut lines = [_mm512_setzero_si512(); SIDE];
                for (i, line) in lines.iter_mut().enumerate() {
                    // The last key stands for those behind it, whose scores nobody reads.
                    let key = (tile * SIDE + i).min(count - 1);
                    // SAFETY: masked columns of a key of the block are inside it.
                    *line = unsafe { load(keys.row(key).add(k * DEPTH * 2), mask) };
                }
                let to = &mut self.keys[(tile * depth + k) * TILE..][..TILE];
                for (to, line) in to.chunks_exact_mut(DEPTH).zip(transpose(&lines)) {
                    // SAFETY: 64 bytes are written to 32 values.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), line) };
                }
            }
        }
    }

    /// The scores of a few rows and a block of keys, which are read in place.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn score_in_place(&mut self, rows: &Rows<'_>, turned: usize, first: usize, count: usize, ahead: &mut Ahead) {
        let dims = rows.job.q.shape[3];
        let keys = self.source(rows, &rows.job.keys, first, 0..count);
        let lines = ahead.lines().div_ceil(KEYS / SIDE * 3);
        let (queries, rest) = self.turned.split_at_mut(turned * dims);
        let (last, scores) = rest.split_at_mut(SIDE * dims);
        let scores: *mut f32 = scores.as_mut_ptr().cast();
        for key in (0..count).step_by(SIDE) {
            ahead.fetch(lines);
            let (mut from, mut stride) = (keys.row(key), keys.stride as usize);
            // SAFETY: 16 keys are read of the block, or copied; turned queries and scores have room for tiles.
            unsafe {
                if key + SIDE > count {
                    for (i, to) in last.chunks_exact_mut(dims).enumerate() {
                        let row = keys.row((key + i).min(count - 1));
                        std::ptr::copy_nonoverlapping(row, to.as_mut_ptr().cast(), dims * 2);
                    }
                    (from, stride) = (last.as_ptr().cast(), dims * 2);
                }
                amx::zero::<7>();
                for k in 0..dims / DEPTH {
                    amx::load::<5>(from.add(k * amx::ROW), stride);
                    amx::load::<6>(queries.as_ptr().add(k * turned * DEPTH).cast(), 4 * turned);
                    amx::dot_bf16::<7, 5, 6>();
                }
                amx::store::<7>(scores.cast(), 4 * turned);
                let mut to = |row: usize| self.scores.as_mut_ptr().wrapping_add(row * KEYS + key);
                if turned == 4 {
                    let four = |i: usize| _mm512_loadu_ps(scores.add(i * 16));
                    let parts = [four(0), four(1), four(2), four(3)];
                    for row in 0..4 {
                        let order = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
                        let order = _mm512_add_epi32(order, _mm512_set1_epi32(row as i32));
                        let low = _mm512_permutex2var_ps(parts[0], order, parts[1]);
                        let high = _mm512_permutex2var_ps(parts[2], order, parts[3]);
                        _mm512_storeu_ps(to(row), _mm512_shuffle_f32x4::<0x44>(low, high));
                    }
                } else {
                    let mut lines = [_mm512_setzero_si512(); SIDE];
                    for (i, line) in lines.iter_mut().enumerate() {
                        *line = _mm512_loadu_si512(scores.add(i * SIDE).cast());
                    }
                    for (row, line) in transpose(&lines).iter().enumerate() {
                        _mm512_storeu_si512(to(row).cast(), *line);
                    }
                }
            }
        }
    }

    /// Packs the values of some keys of a block, with zeros for the others.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack_values(&mut self, rows: &Rows<'_>, first: usize, keys: Range<usize>, ahead: &mut Ahead) {
        const TWIN: usize = KEYS / DEPTH * TILE;
        let dims = rows.job.values.shape()[3];
        let values = self.source(rows, &rows.job.values, first, keys.clone());
        let lines = ahead.lines().div_ceil(KEYS / SIDE * 3);
        for pair in 0..keys.end.next_multiple_of(DEPTH) / 2 {
            if pair % (SIDE / 2) == 0 {
                ahead.fetch(lines);
            }
            let [a, b] = [2 * pair, 2 * pair + 1];
            let (has_a, has_b) = (keys.contains(&a), keys.contains(&b));
            let (from_a, from_b) = (values.row(a), values.row(b));
            let to = self.values[pair / SIDE * TILE + pair % SIDE * DEPTH..].as_mut_ptr();
            for (i, column) in (0..dims).step_by(DEPTH).enumerate() {
                let mask = ones((dims - column).min(DEPTH));
                // SAFETY: masked columns of a key of the block are inside it; 64 bytes are written to rows of two tiles.
                unsafe {
                    let (mut a, mut b) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                    if has_a {
                        a = load(from_a.add(column * 2), mask);
                    }
                    if has_b {
                        b = load(from_b.add(column * 2), mask);
                    }
                    let to = to.add(2 * i * TWIN);
                    _mm512_storeu_si512(to.cast(), _mm512_unpacklo_epi16(a, b));
                    _mm512_storeu_si512(to.add(TWIN).cast(), _mm512_unpackhi_epi16(a, b));
                }
            }
        }
    }

    /// Some keys of a block of keys or values: in place, or unpacked, or copied.
    fn source(&mut self, rows: &Rows<'_>, tensor: &Tensor, first: usize, keys: Range<usize>) -> Source {
        let at = |key: usize| [rows.batch, rows.kv_head, key];
        if let Tensor::Plain(heads) = tensor
            && let Some(first) = rows.place.straight(first, keys.end)
        {
            return Source { data: heads.at(at(first)), stride: heads.stride(), kind: BF16 };
        }
        let (block, row) = &mut self.unpacked;
        let (dims, pitch) = (tensor.shape()[3], row.len());
        for i in keys {
            let to = &mut block[i * pitch..][..dims];
            match (rows.place.key(first + i), tensor.is_bf16()) {
                (None, _) => to.fill(bf16::ZERO),
                (Some(key), true) => tensor.copy(at(key), to),
                (Some(key), false) => {
                    tensor.read(rows.job.isa, at(key), &mut row[..dims]);
                    convert::to_bf16(rows.job.isa, &row[..dims], to);
                }
            }
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
                    amx::load::<5>(at(1), amx::ROW);
                    amx::dot_bf16::<1, 4, 5>();
                    amx::load::<5>(at(2), amx::ROW);
                    amx::dot_bf16::<2, 4, 5>();
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
            let weights = &mut self.weights[row * KEYS..][..len];
            *factor = rows.weigh_narrow(tile + row, first, KEYS, scores, weights, &mut to.states[tile + row]);
        }
        factors
    }

    /// The products of a tile of weights and the first `count` values; says whether all are finite.
    ///
    /// # Safety
    /// The machine must have AMX, and [`Tiles`] live on this thread.
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn sum(&mut self, rows: &Rows<'_>, count: usize) -> bool {
        let e = rows.job.values.shape()[3];
        let (weights, pitch) = (self.weights.as_ptr().cast::<u8>(), e.next_multiple_of(64));
        for column in (0..e).step_by(64) {
            let both = e - column > DEPTH;
            // SAFETY: weights have rows of KEYS, values tiles for all columns, products as many columns.
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
                    amx::load::<5>(at(1), amx::ROW);
                    amx::dot_bf16::<1, 4, 5>();
                    if both {
                        amx::load::<5>(at(2), amx::ROW);
                        amx::dot_bf16::<2, 4, 5>();
                        amx::load::<5>(at(3), amx::ROW);
                        amx::dot_bf16::<3, 4, 5>();
                    }
                }
                let to = self.products.as_mut_ptr().add(column).cast::<u8>();
                amx::store::<0>(to, 4 * pitch);
                amx::store::<1>(to.add(amx::ROW), 4 * pitch);
                amx::store::<2>(to.add(2 * amx::ROW), 4 * pitch);
                amx::store::<3>(to.add(3 * amx::ROW), 4 * pitch);
            }
        }
        let mut most = _mm512_setzero_ps();
        let mut odd = 0;
        for products in self.products[..rows.len().min(SIDE) * pitch].chunks_exact(SIDE) {
            // SAFETY: 16 values are read of 16.
            let size = _mm512_abs_ps(unsafe { _mm512_loadu_ps(products.as_ptr()) });
            odd |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(size, size);
            most = _mm512_max_ps(most, size);
        }
        odd == 0 && _mm512_reduce_max_ps(most) < f32::INFINITY
    }

    /// Multiplies the sums of some rows of a tile with their factors and adds the products.
    #[target_feature(enable = "avx512f")]
    fn add(&self, tile: usize, of: Range<usize>, factors: &[f32; SIDE], to: &mut Partial<'_>) {
        let (width, pitch) = (to.sums.len() / to.states.len(), self.products.len() / SIDE);
        for row in of {
            let factor = _mm512_set1_ps(factors[row]);
            let (sums, products) =
                (&mut to.sums[(tile + row) * width..][..width], &self.products[row * pitch..][..pitch]);
            for (i, sums) in sums.chunks_exact_mut(SIDE).enumerate() {
                let from = &products[i / 2 * DEPTH..][..DEPTH];
                // SAFETY: 16 values are read and written of 16, and 32 products of 32.
                unsafe {
                    let order = _mm512_loadu_si512(ORDER[i % 2].as_ptr().cast());
                    let (even, odd) = (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(SIDE)));
                    let more = _mm512_permutex2var_ps(even, order, odd);
                    let sum = _mm512_fmadd_ps(_mm512_loadu_ps(sums.as_ptr()), factor, more);
                    _mm512_storeu_ps(sums.as_mut_ptr(), sum);
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
