//! Bytes times bytes by AVX2: pairs of products are summed up in 16 bits for as long as they fit, then in 32.

use std::arch::x86_64::*;

use mlx_rs::Dtype;

use super::super::weights::{e4m3, e8m0};
use super::{Block, E2M1, FLOAT_PLANES, HALF, HALF_PLANES, LANES, WIDTH, ZERO};
use crate::quant::Mode;
use crate::quant::panels::{Band, Layout, UNIT};

const QUAD: usize = 4;
const QUADS: usize = UNIT / QUAD;

/// See [`Block::multiply`].
///
/// # Safety
/// The machine must have the level, and the block must have been checked.
pub(super) unsafe fn multiply(block: &Block<'_>, band: &Band<'_>, sums: &mut [f32]) {
    for (at, height) in block.runs() {
        // More than four rows would not have their sums in registers.
        for at in (at..at + height).step_by(height.min(4)) {
            let (row, sums) = (block.first + at, sums[at * WIDTH..].as_mut_ptr());
            // SAFETY: passed on from the caller; the rows are the block's.
            unsafe {
                match (block.rows.planes.len(), height) {
                    (HALF_PLANES, 1) => of_codes!(band.layout, rows_of::<HALF_PLANES, 1>(block, band, row, sums)),
                    (HALF_PLANES, 2) => of_codes!(band.layout, rows_of::<HALF_PLANES, 2>(block, band, row, sums)),
                    (HALF_PLANES, _) => of_codes!(band.layout, rows_of::<HALF_PLANES, 4>(block, band, row, sums)),
                    (_, 1) => of_codes!(band.layout, rows_of::<FLOAT_PLANES, 1>(block, band, row, sums)),
                    (_, 2) => of_codes!(band.layout, rows_of::<FLOAT_PLANES, 2>(block, band, row, sums)),
                    _ => of_codes!(band.layout, rows_of::<FLOAT_PLANES, 4>(block, band, row, sums)),
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_of<const BITS: usize, const FLOAT: bool, const B: usize, const R: usize>(
    block: &Block<'_>,
    band: &Band<'_>,
    row: usize,
    sums: *mut f32,
) {
    let (layout, rows) = (&band.layout, block.rows);
    let (group, groups, width) = (layout.group(), layout.groups(), layout.stripe_groups());
    let line = rows.line(row);
    let planes: [*const u8; B] = std::array::from_fn(|p| rows.planes[p].as_ptr());
    // SAFETY: `Block::multiply` saw that the band has all stripes, rows all columns and groups, and sums all panels and rows.
    unsafe {
        for (stripe, all) in band.stripes().enumerate() {
            for (panel, lines) in all.chunks_exact(layout.stripe_words()).enumerate() {
                let lines = lines.as_ptr();
                let mut codes = lines.add(layout.number_lines() * LANES);
                for which in 0..width.min(groups - stripe * width) {
                    let g = stripe * width + which;
                    for half in 0..2 {
                        let mut dots = [[_mm256_setzero_si256(); R]; B];
                        let mut codes = codes.add(8 * half);
                        if group < UNIT {
                            add::<BITS, FLOAT, B, R, { QUADS / 2 }>(&mut dots, &planes, line.at(g * group), codes);
                        } else {
                            for column in (g * group..(g + 1) * group).step_by(UNIT) {
                                add::<BITS, FLOAT, B, R, QUADS>(&mut dots, &planes, line.at(column), codes);
                                codes = codes.add(BITS * LANES);
                            }
                        }
                        let (scale, bias) = numbers::<FLOAT>(layout, lines, which, half);
                        for (r, &low) in dots[1].iter().enumerate() {
                            let at = (row + r) * groups + g;
                            let (step, sum) = (*rows.steps.get_unchecked(at), *rows.sums.get_unchecked(at));
                            let (step, sum) = (_mm256_set1_ps(step), _mm256_set1_ps(sum));
                            let zero = if FLOAT { *rows.integers.get_unchecked(at) } else { [0; 2] };
                            let [whole, below] = zero.map(|sum| ZERO * sum);
                            let high = _mm256_add_epi32(_mm256_slli_epi32::<8>(dots[0][r]), low);
                            let mut dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(high, _mm256_set1_epi32(whole)));
                            if B == FLOAT_PLANES {
                                let low = _mm256_add_epi32(_mm256_slli_epi32::<8>(dots[B - 2][r]), dots[B - 1][r]);
                                let low = _mm256_sub_epi32(low, _mm256_set1_epi32(below));
                                dot = _mm256_fmadd_ps(dot, _mm256_set1_ps(65536.0), _mm256_cvtepi32_ps(low));
                            }
                            let scaled = _mm256_mul_ps(dot, step);
                            let to = sums.add(r * WIDTH + panel * LANES + 8 * half);
                            let total = _mm256_loadu_ps(to);
                            let total = match B {
                                HALF_PLANES => _mm256_fmadd_ps(bias, sum, _mm256_fmadd_ps(scaled, scale, total)),
                                _ => _mm256_add_ps(total, _mm256_fmadd_ps(scaled, scale, _mm256_mul_ps(bias, sum))),
                            };
                            _mm256_storeu_ps(to, total);
                        }
                    }
                    codes = codes.add(group * BITS * LANES / UNIT);
                }
            }
        }
    }
}

/// How many sums of two products of a code and a byte of magnitude `byte` fit 16 bits, as a divisor of the quads of a unit; 0 if
/// none does.
const fn fitting(bits: usize, float: bool, byte: usize) -> usize {
    let code = if float { E2M1[7] as usize } else { (1 << bits) - 1 };
    let sums = i16::MAX as usize / (2 * code * byte);
    match sums {
        0 => 0,
        1 => 1,
        2 | 3 => 2,
        4..=7 => 4,
        _ => QUADS,
    }
}

/// Adds the first `N` quads of a unit to the sums of each plane; `first` is where in the planes the bytes of the first row and column
/// lie.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add<const BITS: usize, const FLOAT: bool, const B: usize, const R: usize, const N: usize>(
    dots: &mut [[__m256i; R]; B],
    planes: &[*const u8; B],
    first: usize,
    codes: *const u32,
) {
    // The high bytes of two are at most 64 in magnitude, others 128.
    let fits = const { if fitting(BITS, FLOAT, 128) == 0 { 1 } else { fitting(BITS, FLOAT, 128) } };
    let splits = const { fitting(BITS, FLOAT, 128) == 0 };
    let one = _mm256_set1_epi16(1);
    // SAFETY: passed on from the caller.
    unsafe {
        let four = |bytes: *const u8| _mm256_set1_epi32(bytes.cast::<i32>().read_unaligned());
        for from in (0..N).step_by(fits) {
            let mut short = [[_mm256_setzero_si256(); R]; B];
            for q in from..(from + fits).min(N) {
                let codes = quad::<BITS, FLOAT>(codes, q);
                for r in 0..R {
                    let at = r * super::rows::COLUMNS + QUAD * q;
                    for p in 0..B {
                        let bytes = four(planes[p].add(first + at));
                        if splits && p > 0 {
                            // Wide codes meet these bytes in two halves.
                            let nibble = _mm256_set1_epi8(15);
                            let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
                            let upper = _mm256_maddubs_epi16(upper, bytes);
                            let lower = _mm256_maddubs_epi16(_mm256_and_si256(codes, nibble), bytes);
                            let upper = _mm256_madd_epi16(upper, _mm256_set1_epi16(16));
                            let both = _mm256_add_epi32(upper, _mm256_madd_epi16(lower, one));
                            dots[p][r] = _mm256_add_epi32(dots[p][r], both);
                        } else {
                            short[p][r] = _mm256_add_epi16(short[p][r], _mm256_maddubs_epi16(codes, bytes));
                        }
                    }
                }
            }
            for r in 0..R {
                for p in 0..B {
                    dots[p][r] = _mm256_add_epi32(dots[p][r], _mm256_madd_epi16(short[p][r], one));
                }
            }
        }
    }
}

/// The codes of columns `4 q .. 4 q + 4` of a unit, four bytes in each of eight lanes.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn quad<const BITS: usize, const FLOAT: bool>(unit: *const u32, q: usize) -> __m256i {
    let ones = |bits: usize| _mm256_set1_epi8(((1_u32 << bits) - 1) as i8);
    let part = |line: usize, shift: usize, bits: usize| {
        // SAFETY: the caller's unit has this line.
        let words = unsafe { _mm256_loadu_si256(unit.add(line * LANES).cast()) };
        _mm256_and_si256(_mm256_srl_epi32(words, _mm_cvtsi32_si128(shift as i32)), ones(bits))
    };
    let crumbs = |line: usize| part(line + q / 4, 2 * (q % 4), 2);
    let nibbles = || part(q / 2, 4 * (q % 2), 4);
    match BITS {
        2 => crumbs(0),
        3 => _mm256_or_si256(crumbs(0), _mm256_slli_epi32::<2>(part(2, q, 1))),
        4 if FLOAT => {
            // SAFETY: the table has 16 bytes.
            let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(E2M1.as_ptr().cast())) };
            _mm256_shuffle_epi8(table, nibbles())
        }
        4 => nibbles(),
        5 => _mm256_or_si256(nibbles(), _mm256_slli_epi32::<4>(part(4, q, 1))),
        6 => _mm256_or_si256(nibbles(), _mm256_slli_epi32::<4>(crumbs(4))),
        // SAFETY: the caller's unit has this line.
        _ => unsafe { _mm256_loadu_si256(unit.add(q * LANES).cast()) },
    }
}

/// Scale and bias of a group in eight lanes.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn numbers<const FLOAT: bool>(layout: &Layout, line: *const u32, which: usize, half: usize) -> (__m256, __m256) {
    // SAFETY: the caller's line has 64 bytes, of which a group has 16 if there are four in it, and another line follows if numbers
    // have 32 bits.
    unsafe {
        if FLOAT {
            let bytes = line.cast::<u8>().add(LANES * which + 8 * half).cast::<[u8; 8]>().read();
            let scales = bytes.map(if layout.scheme.mode == Mode::Nvfp4 { e4m3 } else { e8m0 });
            let scale = _mm256_loadu_ps(scales.as_ptr());
            return (_mm256_mul_ps(scale, _mm256_set1_ps(HALF)), _mm256_setzero_ps());
        }
        if layout.numbers == Dtype::Float32 {
            let floats = line.cast::<f32>().add(8 * half);
            return (_mm256_loadu_ps(floats), _mm256_loadu_ps(floats.add(LANES)));
        }
        let halves = line.cast::<u16>().add(8 * half);
        let read = |at: *const u16| {
            let bits = _mm_loadu_si128(at.cast());
            match layout.numbers {
                Dtype::Float16 => _mm256_cvtph_ps(bits),
                _ => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))),
            }
        };
        (read(halves), read(halves.add(LANES)))
    }
}
