//! The loops over rows of keys and of values, for AVX-512: lanes go along a row, which is read where it lies.
//!
//! bf16 is multiplied in pairs and summed up in f32 by one instruction: neighbours in a key with those in a query, and values of
//! two keys with their weights, which are rounded to bf16 as for the tiles of AMX. All else is widened. The sums of 16 products of
//! a key and a query are added up across their lanes together. Each product, and each sum of values, has one chain of additions,
//! whatever tile it falls into.

use std::arch::x86_64::*;
use std::ops::Range;

use super::job::KEYS;
use super::rows::Rows;
use super::stored::Tensor;
use crate::kernels::quantized::Weights;

/// Types of values, as parameters of loops.
pub(super) const F32: u8 = 0;
pub(super) const F16: u8 = 1;
pub(super) const BF16: u8 = 2;

/// Rows of values in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) data: *const u8,
    /// Bytes from one row to the next.
    pub(super) stride: isize,
    /// [`F32`], [`F16`] or [`BF16`].
    pub(super) kind: u8,
}

impl Source {
    /// Where a row begins.
    pub(super) fn row(&self, row: usize) -> *const u8 {
        self.data.wrapping_offset(row as isize * self.stride)
    }
}

/// Keys and values that will be needed soon, to be fetched into the second-level cache a few lines at a time, between other work:
/// a processor has few requests under way, and those of others wait behind them.
#[derive(Debug)]
pub(super) struct Ahead {
    /// First byte, bytes from row to row, rows, bytes of a row.
    parts: [(*const u8, isize, usize, usize); 2],
    part: usize,
    row: usize,
    at: usize,
}

impl Ahead {
    /// The keys and values from `first` on, at most `most` of them; none if these do not lie one after the other.
    pub(super) fn new(rows: &Rows<'_>, first: usize, most: usize) -> Self {
        let count = most.min(rows.place.end().saturating_sub(first));
        let straight = if count > 0 { rows.place.straight(first, count) } else { None };
        let part = |tensor: &Tensor| match (tensor, straight) {
            (Tensor::Plain(heads), Some(key)) => {
                let (from, bytes) = (heads.at([rows.batch, rows.kv_head, key]), heads.shape[3] * heads.size());
                // Rows that lie one after the other are one.
                if heads.stride() == bytes as isize {
                    (from, 0, 1, count * bytes)
                } else {
                    (from, heads.stride(), count, bytes)
                }
            }
            _ => (std::ptr::null(), 0, 0, 0),
        };
        Self { parts: [part(&rows.job.keys), part(&rows.job.values)], part: 0, row: 0, at: 0 }
    }

    /// The lines of 64 bytes of all keys and values.
    pub(super) fn lines(&self) -> usize {
        self.parts.iter().map(|(_, _, rows, bytes)| rows * bytes.div_ceil(64)).sum()
    }

    /// Asks for the next lines.
    #[inline]
    pub(super) fn fetch(&mut self, lines: usize) {
        let mut lines = lines;
        while lines > 0 && self.part < 2 {
            let (data, stride, rows, bytes) = self.parts[self.part];
            if self.row == rows {
                (self.part, self.row, self.at) = (self.part + 1, 0, 0);
                continue;
            }
            let end = bytes.min(self.at + 64 * lines);
            let row = data.wrapping_offset(self.row as isize * stride);
            for at in (self.at..end).step_by(64) {
                // SAFETY: any address may be prefetched.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(at).cast()) };
            }
            lines -= (end - self.at).div_ceil(64);
            (self.row, self.at) = if end == bytes { (self.row + 1, 0) } else { (self.row, end) };
        }
    }
}

/// The scores of a block of keys.
pub(super) struct Scores<'a> {
    /// `rows` queries, `pitch` f32 apart: numbers in pairs of bf16 for bf16 keys, else in f32, with zeros behind them.
    pub(super) queries: *const f32,
    pub(super) pitch: usize,
    pub(super) rows: usize,
    pub(super) keys: Source,
    /// From 1 to [`KEYS`].
    pub(super) count: usize,
    pub(super) d: usize,
    /// Scores as `[rows][KEYS]`, of which whole vectors are written.
    pub(super) out: *mut f32,
    /// Fetched from by so many lines for each key.
    pub(super) ahead: &'a mut Ahead,
    pub(super) lines: usize,
}

impl Scores<'_> {
    /// Computes them.
    ///
    /// # Safety
    /// The machine must have AVX-512 with BF16, and all pointers be valid for what they stand for.
    pub(super) unsafe fn run(&mut self) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.keys.kind {
                F32 => self.of::<F32>(),
                F16 => self.of::<F16>(),
                _ => self.of::<BF16>(),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn of<const T: u8>(&mut self) {
        let fours = self.rows / 4 * 4;
        // SAFETY: passed on from the caller.
        unsafe {
            if fours > 0 {
                self.sweep::<T, 4, 4>(0, fours);
            }
            if self.rows - fours >= 2 {
                self.sweep::<T, 2, 8>(fours, fours + 2);
            }
            if self.rows % 2 == 1 {
                self.sweep::<T, 1, 16>(self.rows - 1, self.rows);
            }
        }
    }

    /// Rows from one to another, a multiple of `R`, against all keys, `N` at a time; `R · N` is 16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn sweep<const T: u8, const R: usize, const N: usize>(&mut self, from: usize, to: usize) {
        let Source { data, stride, .. } = self.keys;
        for key in (0..self.count).step_by(N) {
            let mut keys = [data; N];
            for (n, row) in keys.iter_mut().enumerate() {
                // The last key stands for those behind it.
                *row = data.wrapping_offset((key + n).min(self.count - 1) as isize * stride);
            }
            if from == 0 {
                self.ahead.fetch(N * self.lines);
            }
            for row in (from..to).step_by(R) {
                // SAFETY: rows are inside the queries; whole groups of keys fit into a row of scores.
                unsafe {
                    let queries = self.queries.add(row * self.pitch);
                    let scores = products::<T, R, N>(queries, self.pitch, &keys, self.d);
                    let out = self.out.add(row * KEYS + key);
                    match R {
                        1 => _mm512_storeu_ps(out, scores),
                        2 => {
                            _mm256_storeu_ps(out, _mm512_castps512_ps256(scores));
                            _mm256_storeu_ps(out.add(KEYS), _mm512_extractf32x8_ps::<1>(scores));
                        }
                        _ => {
                            _mm_storeu_ps(out, _mm512_castps512_ps128(scores));
                            _mm_storeu_ps(out.add(KEYS), _mm512_extractf32x4_ps::<1>(scores));
                            _mm_storeu_ps(out.add(2 * KEYS), _mm512_extractf32x4_ps::<2>(scores));
                            _mm_storeu_ps(out.add(3 * KEYS), _mm512_extractf32x4_ps::<3>(scores));
                        }
                    }
                }
            }
        }
    }
}

/// Values in a vector.
const fn step(kind: u8) -> usize {
    if kind == BF16 { 32 } else { 16 }
}

/// 16 values as f32, of which those under the mask are read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<const T: u8>(from: *const u8, mask: u16) -> __m512 {
    // SAFETY: the caller vouches for the values under the mask.
    unsafe {
        if mask == u16::MAX {
            match T {
                F32 => _mm512_loadu_ps(from.cast()),
                F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
                _ => widen(_mm256_loadu_si256(from.cast())),
            }
        } else {
            match T {
                F32 => _mm512_maskz_loadu_ps(mask, from.cast()),
                F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())),
                _ => widen(_mm256_maskz_loadu_epi16(mask, from.cast())),
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(values: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values)))
}

/// The products of `R` queries and `N` keys; query `r` and key `n` are in lane `r · N + n`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn products<const T: u8, const R: usize, const N: usize>(
    queries: *const f32,
    pitch: usize,
    keys: &[*const u8; N],
    d: usize,
) -> __m512 {
    let mut sums = [_mm512_setzero_ps(); 16];
    let bytes = if T == F32 { 4 } else { 2 };
    let (whole, rest) = (d / step(T), d % step(T));
    for i in 0..whole + usize::from(rest != 0) {
        let mut of_keys = [_mm512_setzero_ps(); N];
        for (vector, key) in of_keys.iter_mut().zip(keys) {
            let from = key.wrapping_add(i * step(T) * bytes);
            // SAFETY: whole vectors, or the rest of a row, are inside the row.
            *vector = unsafe {
                match (T, i < whole) {
                    (BF16, true) => _mm512_castsi512_ps(_mm512_loadu_si512(from.cast())),
                    (BF16, false) => _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((1_u32 << rest) - 1, from.cast())),
                    (_, true) => load::<T>(from, u16::MAX),
                    (_, false) => load::<T>(from, (1 << rest) - 1),
                }
            };
        }
        for r in 0..R {
            // SAFETY: queries are padded to whole vectors.
            let query = unsafe { _mm512_loadu_ps(queries.add(r * pitch + i * 16)) };
            for n in 0..N {
                sums[r * N + n] = if T == BF16 {
                    let pairs = |v: __m512| of_pairs(_mm512_castps_si512(v));
                    _mm512_dpbf16_ps(sums[r * N + n], pairs(of_keys[n]), pairs(query))
                } else {
                    _mm512_fmadd_ps(of_keys[n], query, sums[r * N + n])
                };
            }
        }
    }
    across(&sums)
}

/// The sums of the lanes of 16 vectors; each is added up in the same order.
#[inline]
#[target_feature(enable = "avx512f")]
fn across(v: &[__m512; 16]) -> __m512 {
    let mut quarters = [_mm512_setzero_ps(); 4];
    for (i, quarter) in quarters.iter_mut().enumerate() {
        let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (ab, cd) = (pair(v[4 * i], v[4 * i + 1]), pair(v[4 * i + 2], v[4 * i + 3]));
        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
        let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
        *quarter = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    }
    let halves = |a, b| {
        let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
        _mm512_add_ps(even, odd)
    };
    halves(halves(quarters[0], quarters[1]), halves(quarters[2], quarters[3]))
}

/// The sums of a block of values under weights.
pub(super) struct Sums<'a> {
    /// `[rows][KEYS]`, in bf16 for values in bf16, else in f32.
    pub(super) weights: *const u8,
    /// The values that each row sees.
    pub(super) seen: &'a [Range<usize>],
    pub(super) values: Source,
    pub(super) e: usize,
    /// `[rows][width]`.
    pub(super) to: *mut f32,
    pub(super) width: usize,
    /// Fetched from by so many lines for each key.
    pub(super) ahead: &'a mut Ahead,
    pub(super) lines: usize,
}

impl Sums<'_> {
    /// Adds the values to the sums of each row.
    ///
    /// # Safety
    /// The machine must have AVX-512 with BF16, and all pointers be valid for what they stand for.
    pub(super) unsafe fn run(&mut self) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.values.kind {
                F32 => self.of::<F32>(),
                F16 => self.of::<F16>(),
                _ => self.of::<BF16>(),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn of<const T: u8>(&mut self) {
        let (rows, fours) = (self.seen.len(), self.seen.len() / 4 * 4);
        // SAFETY: passed on from the caller.
        unsafe {
            for row in (0..fours).step_by(4) {
                self.rows::<T, 4>(row);
            }
            if rows - fours >= 2 {
                self.rows::<T, 2>(fours);
            }
            if rows % 2 == 1 {
                self.rows::<T, 1>(rows - 1);
            }
        }
    }

    /// `R` rows: the values that all of them see together, those that only some see one by one. Pairs stay together, so that a
    /// row has the same order of sums alone.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn rows<const T: u8, const R: usize>(&mut self, row: usize) {
        let seen = &self.seen[row..row + R];
        let from = seen.iter().map(|keys| keys.start).max().unwrap_or(0).next_multiple_of(2);
        let to = (seen.iter().map(|keys| keys.end).min().unwrap_or(0) / 2 * 2).max(from);
        // SAFETY: passed on from the caller.
        unsafe {
            for (i, keys) in seen.iter().enumerate() {
                self.columns::<T, 1>(row + i, keys.start..keys.end.min(from));
            }
            self.columns::<T, R>(row, from..to);
            for (i, keys) in seen.iter().enumerate() {
                self.columns::<T, 1>(row + i, keys.start.max(to)..keys.end);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn columns<const T: u8, const R: usize>(&mut self, row: usize, keys: Range<usize>) {
        if keys.is_empty() {
            return;
        }
        let wide = self.e / 64 * 64;
        // SAFETY: passed on from the caller; sums have whole vectors.
        unsafe {
            if T == BF16 {
                for column in (0..wide).step_by(64) {
                    self.pairs::<R, 2>(row, column, keys.clone(), u32::MAX);
                }
                for column in (wide..self.e).step_by(32) {
                    let mask = ((1_u64 << (self.e - column).min(32)) - 1) as u32;
                    self.pairs::<R, 1>(row, column, keys.clone(), mask);
                }
                return;
            }
            for column in (0..wide).step_by(64) {
                self.tile::<T, R, 4>(row, column, keys.clone(), u16::MAX);
            }
            for column in (wide..self.e).step_by(16) {
                let mask = ((1_u32 << (self.e - column).min(16)) - 1) as u16;
                self.tile::<T, R, 1>(row, column, keys.clone(), mask);
            }
        }
    }

    /// `R` rows and `V` vectors of columns; the mask is for the last of them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn tile<const T: u8, const R: usize, const V: usize>(
        &mut self,
        row: usize,
        column: usize,
        keys: Range<usize>,
        mask: u16,
    ) {
        let bytes = if T == F32 { 4 } else { 2 };
        let fetch = row == 0 && column == 0;
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: rows and columns are inside the sums, keys inside the block, and masked columns are not read.
        unsafe {
            let weights = self.weights.cast::<f32>().add(row * KEYS);
            let (to, width) = (self.to, self.width);
            let at = |r: usize, v: usize| to.add((row + r) * width + column + v * 16);
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(at(r, v));
                }
            }
            for key in keys {
                let from = self.values.row(key);
                if fetch {
                    self.ahead.fetch(self.lines);
                }
                let mut values = [_mm512_setzero_ps(); V];
                for (v, value) in values.iter_mut().enumerate() {
                    let from = from.wrapping_add((column + v * 16) * bytes);
                    *value = load::<T>(from, if V == 1 { mask } else { u16::MAX });
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = _mm512_set1_ps(*weights.add(r * KEYS + key));
                    for (sum, value) in sums.iter_mut().zip(&values) {
                        *sum = _mm512_fmadd_ps(weight, *value, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(at(r, v), *sum);
                }
            }
        }
    }

    /// The same for bf16, two keys at a time: their values are laid side by side, each with its weight. `V` vectors of 32 columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn pairs<const R: usize, const V: usize>(
        &mut self,
        row: usize,
        column: usize,
        keys: Range<usize>,
        mask: u32,
    ) {
        let fetch = row == 0 && column == 0;
        // Sums behind the last vector of a row are not there.
        let halves = if mask >> 16 == 0 { 1 } else { 2 };
        let mut sums = [[[_mm512_setzero_ps(); 2]; V]; R];
        // SAFETY: rows and columns are inside the sums, keys inside the block, and masked columns are not read.
        unsafe {
            let weights = self.weights.cast::<i32>().add(row * KEYS / 2);
            let (to, width) = (self.to, self.width);
            let at = |r: usize, v: usize, half: usize| to.add((row + r) * width + column + v * 32 + half * 16);
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate().take(halves) {
                        *sum = _mm512_loadu_ps(at(r, v, half));
                    }
                    *sums = mixed(*sums);
                }
            }
            for pair in keys.start / 2..keys.end.div_ceil(2) {
                if fetch {
                    self.ahead.fetch(2 * self.lines);
                }
                // One whose neighbour is not seen has zeros beside it, not even zero times that.
                let (even, odd) = (2 * pair, 2 * pair + 1);
                let (of_even, of_odd) =
                    (if even < keys.start { 0 } else { mask }, if odd < keys.end { mask } else { 0 });
                let (from_even, from_odd) = (self.values.row(even), self.values.row(odd));
                let whole = V == 2 && of_even & of_odd != 0;
                let mut values = [[_mm512_setzero_si512(); 2]; V];
                for (v, value) in values.iter_mut().enumerate() {
                    let at = (column + v * 32) * 2;
                    let (from_even, from_odd) = (from_even.wrapping_add(at).cast(), from_odd.wrapping_add(at).cast());
                    let (even, odd) = if whole {
                        (_mm512_loadu_epi16(from_even), _mm512_loadu_epi16(from_odd))
                    } else {
                        (_mm512_maskz_loadu_epi16(of_even, from_even), _mm512_maskz_loadu_epi16(of_odd, from_odd))
                    };
                    *value = [_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)];
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = _mm512_set1_epi32(weights.add(r * KEYS / 2 + pair).read_unaligned());
                    for (sums, values) in sums.iter_mut().zip(&values) {
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = _mm512_dpbf16_ps(*sum, of_pairs(*value), of_pairs(weight));
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sums) in sums.iter().enumerate() {
                    for (half, sum) in unmixed(*sums).iter().enumerate().take(halves) {
                        _mm512_storeu_ps(at(r, v, half), *sum);
                    }
                }
            }
        }
    }
}

/// Pairs of bf16 as the instructions want them.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_pairs(pairs: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes of numbers.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) }
}

/// 32 columns in the order in which unpacking 16-bit values leaves them: of each eight, four are in the first vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn mixed([a, b]: [__m512; 2]) -> [__m512; 2] {
    let first = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    [_mm512_permutex2var_ps(a, first, b), _mm512_permutex2var_ps(a, second, b)]
}

/// The inverse of [`mixed`].
#[inline]
#[target_feature(enable = "avx512f")]
fn unmixed([a, b]: [__m512; 2]) -> [__m512; 2] {
    let first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    [_mm512_permutex2var_ps(a, first, b), _mm512_permutex2var_ps(a, second, b)]
}

/// Unpacks the first row of an affine matrix of 4 or 8 bits.
///
/// # Safety
/// The machine must have AVX-512, and the row codes and parameters for all of `out`, a multiple of 32.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn unpack(row: &Weights<'_>, out: &mut [f32]) {
    let group = row.scheme.group_size as usize;
    let low = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(2));
    let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let at = i * 32 / group;
        let scale = _mm512_set1_ps(row.scales.get(at));
        let bias = _mm512_set1_ps(row.biases.map_or(0.0, |biases| biases.get(at)));
        // SAFETY: 32 codes are read of the row, 32 values written to as many.
        unsafe {
            let halves = if row.scheme.bits == 4 {
                let words = _mm512_castsi128_si512(_mm_loadu_si128(row.words.as_ptr().add(i * 4).cast()));
                [low, high].map(|of| {
                    let codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(of, words), shifts);
                    _mm512_and_si512(codes, _mm512_set1_epi32(15))
                })
            } else {
                let codes: *const __m128i = row.words.as_ptr().add(i * 8).cast();
                [0, 1].map(|half| _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(half))))
            };
            for (half, codes) in halves.into_iter().enumerate() {
                let values = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(codes), bias);
                _mm512_storeu_ps(out.as_mut_ptr().add(16 * half), values);
            }
        }
    }
}
