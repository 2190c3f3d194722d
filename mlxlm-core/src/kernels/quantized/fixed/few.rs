//! One or two rows of activations, as decoding has them, by VNNI: weights go from memory to registers row by row.
//!
//! The codes of a row meet the activations lane by lane; then the lanes of 16 rows that belong to one group are added up and
//! transposed, so that again there is a lane for each row of weights.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::weights::Weights;
use super::avx512::with_group;
use super::panel::{E2M1, Spread};
use super::rows::Rows;
use super::{LANES, PAIR};
use crate::kernels::gemm::avx512::transposed;
use crate::quant::Mode;

/// Rows of activations.
pub(super) const ROWS: usize = 2;

/// The rows, their bytes in the order in which the fields of vectors of codes meet them.
pub(super) struct Lines<'a> {
    rows: &'a Rows<'a>,
    first: usize,
    len: usize,
    bits: usize,
    /// `[chunk][field][row][high or low]` of 64 bytes each; zero beyond the last column.
    bytes: Vec<[i32; 16]>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(rows: &'a Rows<'a>, range: &Range<usize>, bits: usize) -> Self {
        let fields = fields(bits);
        let (len, chunks) = (range.len(), rows.columns.div_ceil(64 * fields));
        let mut bytes = vec![[0; 16]; chunks * fields * len * 2];
        for (r, row) in range.clone().enumerate() {
            for (which, from) in [rows.high, rows.low].into_iter().enumerate() {
                for column in (0..rows.columns).step_by(64) {
                    let (at, some) = (rows.at(row, column), 64.min(rows.columns - column));
                    // Words of 64 columns go in turn to the fields of their chunk.
                    let (chunk, begin) = (column / 64 / fields, column / 64 % fields * 16 / fields);
                    for (i, word) in from[at..at + some].chunks_exact(4).enumerate() {
                        let line = ((chunk * fields + i % fields) * len + r) * 2 + which;
                        bytes[line][begin + i / fields] = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
                    }
                }
            }
        }
        Self { rows, first: range.start, len, bits, bytes }
    }

    /// Vectors that [`Self::multiply`] needs room for.
    pub(super) fn room(&self, w: &Weights<'_>) -> usize {
        self.len * self.chunks() * if self.lanes(w) < 4 { LANES } else { 4 }
    }

    fn chunks(&self) -> usize {
        self.bytes.len() / (fields(self.bits) * self.len * 2)
    }

    /// Lanes of a chunk's sums that belong to one group.
    fn lanes(&self, w: &Weights<'_>) -> usize {
        w.group() / (4 * fields(self.bits))
    }

    /// Multiplies with the rows of weights from `first` on; the sums of each row are `PAIR · LANES` apart.
    ///
    /// # Safety
    /// The machine must have AVX-512.
    pub(super) unsafe fn multiply(&self, w: &Weights<'_>, first: usize, params: &Params<'_>, to: Target<'_>) {
        assert!(first < w.rows && to.room.len() >= 16 * self.room(w));
        assert!(params.scales.len() == self.rows.groups * LANES && params.biases.len() == params.scales.len());
        macro_rules! bits {
            ($($bits:literal)*) => {
                match (self.bits, self.len) {
                    // SAFETY: passed on from the caller.
                    $(($bits, 1) => unsafe { self.panel::<$bits, 1>(w, first, params, to) },
                    ($bits, _) => unsafe { self.panel::<$bits, 2>(w, first, params, to) },)*
                    (bits, _) => unreachable!("no codes of {bits} bits"),
                }
            };
        }
        bits!(2 3 4 5 6 8);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    unsafe fn panel<const BITS: usize, const R: usize>(
        &self,
        w: &Weights<'_>,
        first: usize,
        params: &Params<'_>,
        Target { sums, room }: Target<'_>,
    ) {
        let codes = Codes::<BITS>::new(w, first);
        let (lanes, step) = (self.lanes(w), fields(BITS) * R * 2);
        // `[chunk][row][4]` of fours of rows of weights, or all 16 of them where the lanes of a group are fewer than 4.
        let kept = if lanes < 4 { LANES } else { 4 };
        let room = room.as_mut_ptr().cast::<__m512i>();
        // SAFETY: the room was measured; rows beyond the last repeat it.
        unsafe {
            for four in 0..4 {
                for (chunk, lines) in self.bytes.chunks_exact(step).enumerate() {
                    codes.fetch(4 * four, chunk);
                    let dots: [[__m512i; R]; 4] = std::array::from_fn(|i| codes.dots::<R>(4 * four + i, chunk, lines));
                    for r in 0..R {
                        let to = room.add((chunk * R + r) * kept);
                        let dots: [__m512i; 4] = std::array::from_fn(|i| dots[i][r]);
                        if lanes < 4 {
                            (0..4).for_each(|i| to.add(4 * four + i).write(dots[i]));
                        } else {
                            to.add(four).write(sum_of_fours(&dots));
                        }
                    }
                }
            }
            for r in 0..R {
                let total = self.collect(r, lanes, params, |chunk| room.add((chunk * R + r) * kept));
                _mm512_storeu_ps(sums[r * PAIR * LANES..][..LANES].as_mut_ptr(), total);
            }
        }
    }

    /// Adds up the groups of a row, in order.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    unsafe fn collect(
        &self,
        r: usize,
        lanes: usize,
        params: &Params<'_>,
        dots: impl Fn(usize) -> *const __m512i,
    ) -> __m512 {
        let groups = self.rows.groups;
        let mut total = _mm512_setzero_ps();
        let mut next = 0;
        // SAFETY: passed on from the caller; a chunk that is cut off has no more groups.
        unsafe {
            let mut add = |dots: __m512i| {
                if next < groups {
                    let at = (self.first + r) * groups + next;
                    let x = (*self.rows.steps.get_unchecked(at), *self.rows.sums.get_unchecked(at));
                    total = with_group(total, dots, params.of(next), x);
                    next += 1;
                }
            };
            let mut held = _mm512_setzero_si512();
            for chunk in 0..self.chunks() {
                if lanes < 4 {
                    let all = dots(chunk).cast::<[__m512; LANES]>().read();
                    let columns = transposed(&all).map(|v| _mm512_castps_si512(v));
                    columns.chunks_exact(2).for_each(|two| add(_mm512_add_epi32(two[0], two[1])));
                    continue;
                }
                let quarters = transposed_quarters(&dots(chunk).cast::<[__m512i; 4]>().read());
                let [a, b, c, d] = quarters;
                let (ab, cd) = (_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
                match lanes {
                    4 => quarters.into_iter().for_each(&mut add),
                    8 => [ab, cd].into_iter().for_each(&mut add),
                    16 => add(_mm512_add_epi32(ab, cd)),
                    // A group of two chunks.
                    _ if chunk % 2 == 0 => held = _mm512_add_epi32(ab, cd),
                    _ => add(_mm512_add_epi32(held, _mm512_add_epi32(ab, cd))),
                }
            }
        }
        total
    }
}

/// Where a panel's sums go, and room for what is between.
pub(super) struct Target<'a> {
    /// `[row]` with `PAIR · LANES` between them.
    pub(super) sums: &'a mut [f32],
    pub(super) room: &'a mut [f32],
}

/// The scales and biases of a panel, `[group][LANES]`.
pub(super) struct Params<'a> {
    pub(super) scales: &'a [f32],
    pub(super) biases: &'a [f32],
}

impl Params<'_> {
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn of(&self, group: usize) -> (__m512, __m512) {
        // SAFETY: the caller has a group of the panel.
        unsafe {
            let at = group * LANES;
            (_mm512_loadu_ps(self.scales.as_ptr().add(at)), _mm512_loadu_ps(self.biases.as_ptr().add(at)))
        }
    }
}

/// Vectors of 64 codes in a vector of words.
const fn fields(bits: usize) -> usize {
    match bits {
        2 => 4,
        4 => 2,
        _ => 1,
    }
}

/// The codes of 16 rows of weights, a chunk of 64 columns for each field at a time.
struct Codes<'a, const BITS: usize> {
    w: &'a Weights<'a>,
    first: usize,
    affine: bool,
    spread: Spread,
    ones: __m512i,
    table: __m512i,
}

impl<'a, const BITS: usize> Codes<'a, BITS> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(w: &'a Weights<'a>, first: usize) -> Self {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1.as_ptr().cast())) };
        let ones = _mm512_set1_epi8(((1_u32 << BITS) - 1) as i8);
        Self { w, first, affine: w.scheme.mode == Mode::Affine, spread: Spread::new(BITS), ones, table }
    }

    /// Fetches a part of the next four rows, which follow these in memory, line by line.
    #[inline(always)]
    fn fetch(&self, row: usize, chunk: usize) {
        let (length, part) = (self.w.columns * BITS / 8, 4 * 8 * BITS * fields(BITS));
        let from = self.w.words.as_ptr().cast::<i8>().wrapping_add((self.first + row + 4) * length + chunk * part);
        for line in 0..part.div_ceil(64) {
            // SAFETY: a prefetch never faults.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(64 * line));
                _mm_prefetch::<_MM_HINT_T2>(from.wrapping_add(64 * line + 12 * length));
            }
        }
    }

    /// The bytes of a row's chunk; zeros beyond its end.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    #[inline]
    unsafe fn load(&self, row: usize, chunk: usize) -> __m512i {
        let length = self.w.columns * BITS / 8;
        let bytes = 8 * BITS * fields(BITS);
        let row = (self.first + row).min(self.w.rows - 1);
        let at = self.w.words.as_ptr().cast::<i8>().wrapping_add(row * length + chunk * bytes);
        let left = length - chunk * bytes;
        // SAFETY: whole vectors and masked lanes lie inside the row.
        unsafe {
            if bytes == 64 && left >= 64 {
                return _mm512_loadu_si512(at.cast());
            }
            let loaded = _mm512_maskz_loadu_epi8(u64::MAX >> (64 - left.min(bytes)), at);
            if bytes == 64 { loaded } else { self.spread.apply(loaded) }
        }
    }

    /// The lowest field as integers.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn field(&self, vector: __m512i) -> __m512i {
        let codes = if BITS == 8 { vector } else { _mm512_and_si512(vector, self.ones) };
        if BITS == 4 && !self.affine { _mm512_shuffle_epi8(self.table, codes) } else { codes }
    }

    /// The products of a row of weights in a chunk, summed up in fours.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    #[inline]
    unsafe fn dots<const R: usize>(&self, row: usize, chunk: usize, lines: &[[i32; 16]]) -> [__m512i; R] {
        // SAFETY: passed on from the caller; there are two lines for each field and row.
        unsafe {
            let mut vector = self.load(row, chunk);
            let (mut high, mut low) = ([_mm512_setzero_si512(); R], [_mm512_setzero_si512(); R]);
            for field in 0..fields(BITS) {
                let codes = self.field(vector);
                for r in 0..R {
                    let line = lines.as_ptr().add((field * R + r) * 2);
                    high[r] = _mm512_dpbusd_epi32(high[r], codes, _mm512_loadu_si512(line.cast()));
                    low[r] = _mm512_dpbusd_epi32(low[r], codes, _mm512_loadu_si512(line.add(1).cast()));
                }
                vector = match BITS {
                    2 => _mm512_srli_epi32::<2>(vector),
                    4 => _mm512_srli_epi32::<4>(vector),
                    _ => vector,
                };
            }
            std::array::from_fn(|r| _mm512_add_epi32(_mm512_slli_epi32::<8>(high[r]), low[r]))
        }
    }
}

/// Sums of each four lanes of four vectors: in each quarter, the sums of the same quarter of all four.
#[target_feature(enable = "avx512f")]
#[inline]
fn sum_of_fours(v: &[__m512i; 4]) -> __m512i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (a, b) = (pair(v[0], v[1]), pair(v[2], v[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
}

/// Vector `i` becomes quarter `i` of all.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed_quarters(v: &[__m512i; 4]) -> [__m512i; 4] {
    let low = [_mm512_shuffle_i32x4::<0x44>(v[0], v[1]), _mm512_shuffle_i32x4::<0x44>(v[2], v[3])];
    let high = [_mm512_shuffle_i32x4::<0xEE>(v[0], v[1]), _mm512_shuffle_i32x4::<0xEE>(v[2], v[3])];
    [
        _mm512_shuffle_i32x4::<0x88>(low[0], low[1]),
        _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]),
        _mm512_shuffle_i32x4::<0x88>(high[0], high[1]),
        _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]),
    ]
}
