//! Rows against a matrix with AVX-512: bf16 numbers are multiplied in pairs and summed up in f32 by one instruction; others are
//! widened.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AHEAD, BF16, F16, F32, Job, ROWS, Sizes, at};
use crate::kernels::isa::fetches_ahead;

/// Rows of `x` in a tile: with four of the matrix 24 sums.
const TILE: usize = 6;

/// # Safety
/// The machine must have AVX-512 with BF16, and the columns be among the job's.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(job: &Job, columns: Range<usize>) {
    let tiles = job.sizes.m.div_ceil(TILE);
    for column in columns.clone().step_by(ROWS) {
        for tile in 0..tiles {
            let rows = tile * job.sizes.m / tiles..(tile + 1) * job.sizes.m / tiles;
            // SAFETY: rows and columns are inside the operands.
            unsafe {
                if columns.end - column >= ROWS {
                    tile_of::<ROWS>(job, rows, column);
                } else {
                    for column in column..columns.end {
                        tile_of::<1>(job, rows.clone(), column);
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile_of<const N: usize>(job: &Job, rows: Range<usize>, column: usize) {
    macro_rules! kinds {
        ($M:literal) => {
            match (job.x.kind, job.w.kind) {
                // SAFETY: passed on from the caller.
                (BF16, _) => unsafe { tile::<N, $M, BF16, BF16>(job, rows.start, column) },
                (F16, _) => unsafe { tile::<N, $M, F16, F16>(job, rows.start, column) },
                (_, BF16) => unsafe { tile::<N, $M, F32, BF16>(job, rows.start, column) },
                (_, F16) => unsafe { tile::<N, $M, F32, F16>(job, rows.start, column) },
                _ => unsafe { tile::<N, $M, F32, F32>(job, rows.start, column) },
            }
        };
    }
    match rows.len() {
        1 => kinds!(1),
        2 => kinds!(2),
        3 => kinds!(3),
        4 => kinds!(4),
        5 => kinds!(5),
        _ => kinds!(6),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const N: usize, const M: usize, const X: u8, const W: u8>(job: &Job, first: usize, column: usize) {
    let Sizes { n, k, .. } = job.sizes;
    let in_pairs = X == BF16;
    let step = if in_pairs { 32 } else { 16 };
    let ahead = fetches_ahead();
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    // SAFETY: whole vectors and the masked rest lie inside the rows.
    unsafe {
        let (x, w) = (at::<X>(job.x.data, first * k), at::<W>(job.w.data, column * k));
        // A macro, since a closure of this size is called, with all sums in memory.
        macro_rules! add {
            ($index:expr, $mask:expr) => {{
                let (index, mask): (usize, u32) = ($index, $mask);
                if ahead {
                    for j in 0..N {
                        _mm_prefetch::<_MM_HINT_T0>(at::<W>(w, j * k + index + AHEAD).cast());
                    }
                }
                // A loop rather than `from_fn`, which is compiled without these instructions and called.
                let mut weights = [_mm512_setzero_ps(); N];
                for (j, weights) in weights.iter_mut().enumerate() {
                    let from = at::<W>(w, j * k + index);
                    *weights = if in_pairs { pairs(from, mask) } else { load::<W>(from, mask as u16) };
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let from = at::<X>(x, i * k + index);
                    let x = if in_pairs { pairs(from, mask) } else { load::<X>(from, mask as u16) };
                    for (sum, w) in sums.iter_mut().zip(&weights) {
                        *sum = if in_pairs {
                            let pairs = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
                            _mm512_dpbf16_ps(*sum, pairs(*w), pairs(x))
                        } else {
                            _mm512_fmadd_ps(*w, x, *sum)
                        };
                    }
                }
            }};
        }
        for index in (0..k / step * step).step_by(step) {
            add!(index, u32::MAX);
        }
        if k % step != 0 {
            add!(k / step * step, (1 << (k % step)) - 1);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                *job.out.get().add((first + i) * n + column + j) = _mm512_reduce_add_ps(*sum);
            }
        }
    }
}

/// 32 numbers of 16 bits, those under the mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pairs(from: *const u8, mask: u32) -> __m512 {
    // SAFETY: the caller vouches for the numbers under the mask.
    _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) })
}

/// 16 numbers as f32, those under the mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<const KIND: u8>(from: *const u8, mask: u16) -> __m512 {
    // SAFETY: the caller vouches for the numbers under the mask.
    unsafe {
        match KIND {
            F32 => _mm512_maskz_loadu_ps(mask, from.cast()),
            F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())),
            _ => {
                let halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
            }
        }
    }
}
