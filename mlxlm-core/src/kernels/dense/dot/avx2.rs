//! Rows in f32 against a matrix of any type with AVX2, whose numbers are widened.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AHEAD, BF16, F16, F32, Job, ROWS, Sizes, at};
use crate::kernels::isa::fetches_ahead;

/// Rows of `x` in a tile: with four of the matrix 8 sums, beside which four vectors of these are in registers.
const TILE: usize = 2;
/// Numbers of a vector.
const STEP: usize = 8;

/// # Safety
/// The machine must have AVX2, FMA and F16C, rows be in f32, and the columns be among the job's.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(job: &Job, columns: Range<usize>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match job.w.kind {
            F32 => all::<F32>(job, columns),
            F16 => all::<F16>(job, columns),
            _ => all::<BF16>(job, columns),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn all<const W: u8>(job: &Job, columns: Range<usize>) {
    let m = job.sizes.m;
    for column in columns.clone().step_by(ROWS) {
        let whole = columns.end - column >= ROWS;
        for row in (0..m).step_by(TILE) {
            // SAFETY: rows and columns are inside the operands.
            unsafe {
                match (TILE.min(m - row), whole) {
                    (1, true) => tile::<ROWS, 1, W>(job, row, column),
                    (_, true) => tile::<ROWS, 2, W>(job, row, column),
                    (rows, false) => {
                        for (row, column) in
                            (row..row + rows).flat_map(|row| (column..columns.end).map(move |c| (row, c)))
                        {
                            tile::<1, 1, W>(job, row, column);
                        }
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const N: usize, const M: usize, const W: u8>(job: &Job, first: usize, column: usize) {
    let Sizes { n, k, .. } = job.sizes;
    let ahead = fetches_ahead();
    let mut sums = [[_mm256_setzero_ps(); N]; M];
    // SAFETY: whole vectors lie inside the rows, of the last ones only what does is read.
    unsafe {
        let (x, w) = (at::<F32>(job.x.data, first * k), at::<W>(job.w.data, column * k));
        let whole = k / STEP * STEP;
        for index in (0..whole).step_by(STEP) {
            let mut weights = [_mm256_setzero_ps(); N];
            for (j, weights) in weights.iter_mut().enumerate() {
                let from = at::<W>(w, j * k + index);
                if ahead {
                    _mm_prefetch::<_MM_HINT_T0>(at::<W>(from, AHEAD).cast());
                }
                *weights = load::<W>(from);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = load::<F32>(at::<F32>(x, i * k + index));
                for (sum, w) in sums.iter_mut().zip(&weights) {
                    *sum = _mm256_fmadd_ps(*w, x, *sum);
                }
            }
        }
        if whole < k {
            let mut weights = [_mm256_setzero_ps(); N];
            for (j, weights) in weights.iter_mut().enumerate() {
                *weights = load_part::<W>(at::<W>(w, j * k + whole), k - whole);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = load_part::<F32>(at::<F32>(x, i * k + whole), k - whole);
                for (sum, w) in sums.iter_mut().zip(&weights) {
                    *sum = _mm256_fmadd_ps(*w, x, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                *job.out.get().add((first + i) * n + column + j) = total(*sum);
            }
        }
    }
}

/// Eight numbers as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load<const KIND: u8>(from: *const u8) -> __m256 {
    // SAFETY: the caller vouches for the numbers.
    unsafe {
        match KIND {
            F32 => _mm256_loadu_ps(from.cast()),
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            _ => {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
            }
        }
    }
}

/// `count` numbers as f32, less than eight, and zeros behind them.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_part<const KIND: u8>(from: *const u8, count: usize) -> __m256 {
    let mut part = [0_u8; STEP * size_of::<f32>()];
    let bytes = at::<KIND>(from, count).addr() - from.addr();
    // SAFETY: the caller vouches for the numbers, for which there is room.
    unsafe {
        std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), bytes);
        load::<KIND>(part.as_ptr())
    }
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn total(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
