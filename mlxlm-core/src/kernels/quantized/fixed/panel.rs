//! Sixteen rows of a quantized matrix as integers: codes as bytes, scales and biases as f32, a lane for each row.

use std::arch::x86_64::*;

use super::super::lanes::load_params;
use super::super::weights::{Params, Weights, code};
use super::LANES;
use crate::kernels::gemm::avx512::transposed;
use crate::kernels::isa::Isa;
use crate::quant::Mode;

/// Room for codes is a multiple of this many columns.
pub(super) const CHUNK: usize = 256;

/// In which order the columns of a run of 16 lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Natural,
    /// Of each 8 columns the even ones, then the odd ones: the low and the high halves of the bytes of a word.
    Nibbles,
    /// Every fourth column from the first on, from the second on, …: the quarters of the bytes of a word.
    Crumbs,
}

impl Order {
    pub(super) fn of(w: &Weights<'_>) -> Self {
        match w.bits() {
            2 => Self::Crumbs,
            4 => Self::Nibbles,
            _ => Self::Natural,
        }
    }

    /// The place of a column.
    fn place(self, column: usize) -> usize {
        let (run, i) = (column / 16 * 16, column % 16);
        run + match self {
            Self::Natural => i,
            Self::Nibbles => i / 8 * 8 + i % 2 * 4 + i % 8 / 2,
            Self::Crumbs => i % 4 * 4 + i / 4,
        }
    }
}

/// The 4-bit floats (e2m1) are halves of these, less 6.
pub(super) const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// What a scale becomes, and the bias in scales, when codes are `E2M1`.
const HALF: f32 = 0.5;
const CENTRE: f32 = -6.0;

/// Writes the codes of the rows from `first` on, columns `from..from + columns`, as `[column / 4][LANES][4]`. Rows beyond the
/// last repeat it; columns are a multiple of 16, and what lies in `out` beyond them is anything.
pub(super) fn codes(isa: Isa, w: &Weights<'_>, first: usize, from: usize, columns: usize, out: &mut [u8]) {
    assert!(isa <= Isa::best() && first < w.rows && from + columns <= w.columns);
    assert!(
        out.len() >= columns.next_multiple_of(CHUNK) * LANES && from.is_multiple_of(32) && columns.is_multiple_of(16)
    );
    match isa {
        Isa::Portable => return plain_codes(w, first, from, columns, out),
        Isa::Avx2 => return narrow_codes(w, first, from, columns, out),
        Isa::Avx512 | Isa::Amx => {}
    }
    // SAFETY: the level and the sizes were checked.
    unsafe {
        match w.bits() {
            2 => words::<2>(w, first, from, columns, out),
            4 => words::<4>(w, first, from, columns, out),
            8 => words::<8>(w, first, from, columns, out),
            _ => fields(w, first, from, columns, out),
        }
    }
}

/// The plain version.
fn plain_codes(w: &Weights<'_>, first: usize, from: usize, columns: usize, out: &mut [u8]) {
    let (order, affine) = (Order::of(w), w.scheme.mode == Mode::Affine);
    for lane in 0..LANES {
        let row = w.row((first + lane).min(w.rows - 1));
        for column in 0..columns {
            let code = code(row, w.bits(), from + column);
            let place = order.place(column);
            out[(place / 4 * LANES + lane) * 4 + place % 4] = if affine { code as u8 } else { E2M1[code as usize] };
        }
    }
}

/// By words of 32 bits: four codes at once become four bytes.
fn narrow_codes(w: &Weights<'_>, first: usize, from: usize, columns: usize, out: &mut [u8]) {
    let bits = w.bits();
    let table = (w.scheme.mode != Mode::Affine).then_some(E2M1);
    for lane in 0..LANES {
        let row = w.row((first + lane).min(w.rows - 1));
        let words = &row[from * bits / 32..(from + columns) * bits / 32];
        let places = out[4 * lane..].chunks_mut(4 * LANES);
        if 32 % bits == 0 {
            let (fields, ones) = (8 / bits, ((1_u32 << bits) - 1) * 0x0101_0101);
            let codes = words.iter().flat_map(|word| (0..fields).map(move |field| word >> (field * bits) & ones));
            for (to, codes) in places.zip(codes) {
                let codes = codes.to_le_bytes();
                to[..4].copy_from_slice(&table.map_or(codes, |table| codes.map(|code| table[usize::from(code)])));
            }
        } else {
            let ones = (1 << bits) - 1;
            let four = |i: usize| {
                let (word, shift) = (4 * i * bits / 32, 4 * i * bits % 32);
                let both = u64::from(words[word]) | u64::from(words.get(word + 1).copied().unwrap_or(0)) << 32;
                let field = |code: usize| (both >> (shift + code * bits) & ones) as u8;
                [field(0), field(1), field(2), field(3)]
            };
            for (i, to) in places.take(columns / 4).enumerate() {
                to[..4].copy_from_slice(&four(i));
            }
        }
    }
}

/// Words of a row that are read at a time.
const WORDS: usize = 16;

/// The fields of whole words: 2, 4 or 8 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn words<const BITS: usize>(w: &Weights<'_>, first: usize, from: usize, columns: usize, out: &mut [u8]) {
    let length = w.columns * BITS / 32;
    let begin = from * BITS / 32;
    let end = (from + columns) * BITS / 32;
    let affine = w.scheme.mode == Mode::Affine;
    let ones = _mm512_set1_epi8(((1_u32 << BITS) - 1) as i8);
    let steps = w.rows - 1 - first;
    // SAFETY: whole vectors and masked lanes lie inside their rows; every chunk of 16 words has its place in `out`.
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1.as_ptr().cast()));
        let row = |lane: usize| w.words.as_ptr().add((first + lane.min(steps)) * length);
        let mut to = out.as_mut_ptr();
        for at in (begin..end).step_by(WORDS) {
            ahead(w, first, at, length);
            let left = end - at;
            let mut rows = [_mm512_setzero_ps(); LANES];
            for (lane, words) in rows.iter_mut().enumerate() {
                let at = row(lane).add(at);
                let loaded = if left >= WORDS {
                    _mm512_loadu_epi32(at.cast())
                } else {
                    _mm512_maskz_loadu_epi32((1 << left) - 1, at.cast())
                };
                *words = _mm512_castsi512_ps(loaded);
            }
            for words in transposed(&rows) {
                let mut words = _mm512_castps_si512(words);
                for _ in 0..8 / BITS {
                    let codes = if BITS == 8 { words } else { _mm512_and_si512(words, ones) };
                    let codes = if affine { codes } else { _mm512_shuffle_epi8(table, codes) };
                    _mm512_storeu_epi32(to.cast(), codes);
                    to = to.add(4 * LANES);
                    words = match BITS {
                        2 => _mm512_srli_epi32::<2>(words),
                        4 => _mm512_srli_epi32::<4>(words),
                        _ => words,
                    };
                }
            }
        }
    }
}

/// Fetches what the next panel will read of its words at the same time, in the order of memory.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn ahead(w: &Weights<'_>, first: usize, at: usize, length: usize) {
    let next = w.words.as_ptr().wrapping_add((first + LANES) * length + at * LANES);
    for line in 0..WORDS * LANES / 16 {
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line * 16).cast());
    }
}

/// Fields that cross words, 3, 5 or 6 bits: the first `8 · bits` bytes of a vector become 64 codes.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    bytes: __m512i,
    shifts: __m512i,
    ones: __m512i,
}

impl Spread {
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn new(bits: usize) -> Self {
        // The 8 columns of each 64-bit lane begin with byte `lane · bits`, and their fields follow each other.
        let bytes: [u8; 64] = std::array::from_fn(|i| (i / 8 * bits + i % 8) as u8);
        let shifts: [u8; 64] = std::array::from_fn(|i| (i % 8 * bits) as u8);
        // SAFETY: both have 64 bytes.
        let [bytes, shifts] = [bytes, shifts].map(|table| unsafe { _mm512_loadu_epi8(table.as_ptr().cast()) });
        Self { bytes, shifts, ones: _mm512_set1_epi8(((1_u32 << bits) - 1) as i8) }
    }

    #[target_feature(enable = "avx512f,avx512vbmi")]
    #[inline]
    pub(super) fn apply(&self, packed: __m512i) -> __m512i {
        let spread = _mm512_permutexvar_epi8(self.bytes, packed);
        _mm512_and_si512(_mm512_multishift_epi64_epi8(self.shifts, spread), self.ones)
    }
}

/// Fields that cross words, 64 columns at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn fields(w: &Weights<'_>, first: usize, from: usize, columns: usize, out: &mut [u8]) {
    const COLUMNS: usize = 64;
    let bits = w.bits();
    let spread = Spread::new(bits);
    let (length, steps) = (w.columns * bits / 8, w.rows - 1 - first);
    let mut to = out.as_mut_ptr();
    for column in (0..columns).step_by(COLUMNS) {
        let present = (1_u64 << (COLUMNS.min(columns - column) * bits / 8)) - 1;
        let mut rows = [_mm512_setzero_ps(); LANES];
        // SAFETY: masked lanes lie inside their rows; every 64 columns have their place in `out`.
        unsafe {
            for (lane, row) in rows.iter_mut().enumerate() {
                let at = (first + lane.min(steps)) * length + (from + column) * bits / 8;
                let at = w.words.as_ptr().cast::<i8>().add(at);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(LANES * length));
                *row = _mm512_castsi512_ps(spread.apply(_mm512_maskz_loadu_epi8(present, at)));
            }
            for codes in transposed(&rows) {
                _mm512_storeu_ps(to.cast(), codes);
                to = to.add(4 * LANES);
            }
        }
    }
}

/// Writes the scales and biases of the rows from `first` on as `[group][LANES]`, for codes as [`codes`] gives them. Rows beyond
/// the last have zeros, or anything.
pub(super) fn params(isa: Isa, w: &Weights<'_>, first: usize, scales: &mut [f32], biases: &mut [f32]) {
    let groups = w.groups();
    assert!(isa <= Isa::best() && first < w.rows && scales.len() == groups * LANES && biases.len() == groups * LANES);
    if isa >= Isa::Avx512 {
        // SAFETY: the level was checked.
        return unsafe { wide_params(w, first, scales, biases) };
    }
    for lane in 0..LANES {
        for group in 0..groups {
            let (scale, bias) = w.params((first + lane).min(w.rows - 1), group);
            let (scale, bias) = match w.scheme.mode {
                Mode::Affine => (scale, bias),
                _ => (HALF * scale, CENTRE * scale),
            };
            scales[group * LANES + lane] = scale;
            biases[group * LANES + lane] = bias;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn wide_params(w: &Weights<'_>, first: usize, scales: &mut [f32], biases: &mut [f32]) {
    // SAFETY: passed on from the caller.
    unsafe {
        across(&w.scales, w, first, scales);
        match (&w.biases, w.scheme.mode) {
            (Some(params), Mode::Affine) => across(params, w, first, biases),
            _ => {
                for (scale, bias) in scales.iter_mut().zip(biases) {
                    *bias = CENTRE * *scale;
                    *scale *= HALF;
                }
            }
        }
    }
}

/// Writes what 16 rows have of scales or biases as `[group][LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn across(params: &Params<'_>, w: &Weights<'_>, first: usize, out: &mut [f32]) {
    let groups = w.groups();
    let lanes = LANES.min(w.rows - first);
    // Neighbours in bf16 are transposed as one word.
    let pairs = match params {
        Params::Bf16(values) if groups.is_multiple_of(2) => Some(values.as_ptr().cast::<i32>()),
        _ => None,
    };
    let per_word = if pairs.is_some() { 2 } else { 1 };
    for from in (0..groups).step_by(LANES * per_word) {
        let some = (LANES * per_word).min(groups - from);
        let mut rows = [_mm512_setzero_ps(); LANES];
        for (lane, row) in rows.iter_mut().enumerate().take(lanes) {
            let at = (first + lane) * groups + from;
            params.prefetch(at + LANES * groups);
            // SAFETY: these are groups of this row.
            *row = unsafe {
                match pairs {
                    Some(words) if some == 2 * LANES => _mm512_castsi512_ps(_mm512_loadu_epi32(words.add(at / 2))),
                    Some(words) => {
                        let mask = (1 << (some / 2)) - 1;
                        _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(mask, words.add(at / 2)))
                    }
                    None => load_params(params, at, some),
                }
            };
        }
        let columns = transposed(&rows);
        let mut put = |i: usize, v: __m512| {
            if i < some {
                // SAFETY: each group has 16 values.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().add((from + i) * LANES), v) };
            }
        };
        for (i, column) in columns.into_iter().enumerate() {
            if pairs.is_some() {
                let words = _mm512_castps_si512(column);
                put(2 * i, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)));
                let high = _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
                put(2 * i + 1, _mm512_castsi512_ps(high));
            } else {
                put(i, column);
            }
        }
    }
}
