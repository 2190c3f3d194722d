//! From codes to f32 weights, 32 at a time, for each level of instructions.
//!
//! Code `i` of a run begins at bit `i · bits`. A vector of codes comes from two lookups of words (the one where a code begins, and
//! the next), two shifts and a mask, whatever the number of bits.

use std::arch::x86_64::*;

use super::fixed::e4m3;
use super::weights::{E2M1, RUN, Weights, code};
use crate::kernels::isa::Isa;
use crate::quant::Mode;

/// Writes the weights of columns `from..from + len` of a row; both are multiples of 8, and only whole runs are fast.
pub(crate) fn unpack(isa: Isa, w: &Weights<'_>, row: usize, from: usize, out: &mut [f32]) {
    assert!(isa <= Isa::best() && from + out.len() <= w.columns);
    if isa == Isa::Portable || !from.is_multiple_of(RUN) || !out.len().is_multiple_of(RUN) {
        return plain(w, row, from, out);
    }
    // SAFETY: the level was checked, and so were the columns.
    unsafe {
        match isa {
            Isa::Portable | Isa::Avx2 => avx2(w, row, from, out),
            Isa::Avx512 | Isa::Amx => avx512(w, row, from, out),
        }
    }
}

/// The plain version.
pub(super) fn plain(w: &Weights<'_>, row: usize, from: usize, out: &mut [f32]) {
    let words = w.row(row);
    for (i, out) in out.iter_mut().enumerate() {
        let (scale, bias) = w.params(row, (from + i) / w.group());
        *out = scale * w.value(code(words, w.bits(), from + i)) + bias;
    }
}

/// For each of 32 codes: the word where it begins, and the bit in that word.
struct Places {
    word: [i32; RUN],
    shift: [i32; RUN],
}

const fn places(bits: usize) -> Places {
    let mut places = Places { word: [0; RUN], shift: [0; RUN] };
    let mut i = 0;
    while i < RUN {
        places.word[i] = (i * bits / 32) as i32;
        places.shift[i] = (i * bits % 32) as i32;
        i += 1;
    }
    places
}

static PLACES: [Places; 9] =
    [places(0), places(1), places(2), places(3), places(4), places(5), places(6), places(7), places(8)];

#[target_feature(enable = "avx512f")]
unsafe fn avx512(w: &Weights<'_>, row: usize, from: usize, out: &mut [f32]) {
    let (bits, group) = (w.bits(), w.group());
    let words = w.row(row);
    let places = &PLACES[bits];
    let present = (1_u16 << bits).wrapping_sub(1);
    let (ones, full, one) = (_mm512_set1_epi32((1 << bits) - 1), _mm512_set1_epi32(32), _mm512_set1_epi32(1));
    // SAFETY: the tables hold 32 places and 16 values; every run lies inside the row.
    unsafe {
        let table = _mm512_loadu_ps(E2M1.as_ptr());
        let half = |h: usize| {
            (_mm512_loadu_epi32(places.word.as_ptr().add(h)), _mm512_loadu_epi32(places.shift.as_ptr().add(h)))
        };
        let halves = [half(0), half(16)];
        for (run, out) in out.chunks_exact_mut(RUN).enumerate() {
            let at = from + run * RUN;
            let run = _mm512_maskz_loadu_epi32(present, words.as_ptr().add(at * bits / 32).cast());
            for (h, (word, shift)) in halves.iter().enumerate() {
                let low = _mm512_srlv_epi32(_mm512_permutexvar_epi32(*word, run), *shift);
                let next = _mm512_permutexvar_epi32(_mm512_add_epi32(*word, one), run);
                let high = _mm512_sllv_epi32(next, _mm512_sub_epi32(full, *shift));
                let codes = _mm512_and_si512(_mm512_or_si512(low, high), ones);
                let (scale, bias) = w.params(row, (at + 16 * h) / group);
                let values = match w.scheme.mode {
                    Mode::Affine => _mm512_cvtepi32_ps(codes),
                    Mode::Mxfp4 | Mode::Nvfp4 => _mm512_permutexvar_ps(codes, table),
                    Mode::Mxfp8 => e4m3(codes),
                };
                let scaled = _mm512_mul_ps(_mm512_set1_ps(scale), values);
                _mm512_storeu_ps(out.as_mut_ptr().add(16 * h), _mm512_add_ps(scaled, _mm512_set1_ps(bias)));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(w: &Weights<'_>, row: usize, from: usize, out: &mut [f32]) {
    let (bits, group) = (w.bits(), w.group());
    let words = w.row(row);
    let places = &PLACES[bits];
    let present = _mm256_cmpgt_epi32(_mm256_set1_epi32(bits as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    let (ones, full, one) = (_mm256_set1_epi32((1 << bits) - 1), _mm256_set1_epi32(32), _mm256_set1_epi32(1));
    // SAFETY: the tables hold 32 places and 16 values; every run lies inside the row.
    unsafe {
        let tables = [_mm256_loadu_ps(E2M1.as_ptr()), _mm256_loadu_ps(E2M1.as_ptr().add(8))];
        for (run, out) in out.chunks_exact_mut(RUN).enumerate() {
            let at = from + run * RUN;
            let run = _mm256_maskload_epi32(words.as_ptr().add(at * bits / 32).cast(), present);
            for h in (0..RUN).step_by(8) {
                let word = _mm256_loadu_si256(places.word.as_ptr().add(h).cast());
                let shift = _mm256_loadu_si256(places.shift.as_ptr().add(h).cast());
                let low = _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(run, word), shift);
                let next = _mm256_permutevar8x32_epi32(run, _mm256_add_epi32(word, one));
                let high = _mm256_sllv_epi32(next, _mm256_sub_epi32(full, shift));
                let codes = _mm256_and_si256(_mm256_or_si256(low, high), ones);
                let (scale, bias) = w.params(row, (at + h) / group);
                let values = match w.scheme.mode {
                    Mode::Affine => _mm256_cvtepi32_ps(codes),
                    Mode::Mxfp4 | Mode::Nvfp4 => {
                        let choose = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                        let (low, high) =
                            (_mm256_permutevar8x32_ps(tables[0], codes), _mm256_permutevar8x32_ps(tables[1], codes));
                        _mm256_blendv_ps(low, high, choose)
                    }
                    Mode::Mxfp8 => {
                        let magnitude = _mm256_slli_epi32::<20>(_mm256_and_si256(codes, _mm256_set1_epi32(0x7F)));
                        let sign = _mm256_slli_epi32::<24>(_mm256_and_si256(codes, _mm256_set1_epi32(0x80)));
                        let scaled =
                            _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(f32::from_bits(247 << 23)));
                        _mm256_or_ps(scaled, _mm256_castsi256_ps(sign))
                    }
                };
                let scaled = _mm256_mul_ps(_mm256_set1_ps(scale), values);
                _mm256_storeu_ps(out.as_mut_ptr().add(h), _mm256_add_ps(scaled, _mm256_set1_ps(bias)));
            }
        }
    }
}
