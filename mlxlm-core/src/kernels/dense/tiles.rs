//! Many rows of bf16 by the tiles of AMX, or in pairs by AVX-512: prompts, and both gradients of training.

use std::arch::x86_64::*;

use half::bf16;

use super::{INVARIANT_ROWS, Part, Place, Product, Sizes};
use crate::kernels::convert::{Results, Values};
use crate::kernels::gemm::avx512::transposed;
use crate::kernels::gemm::halves::{self, Halves, SIDE, STEP, TILE};
use crate::kernels::isa::Isa;

/// The operands, if this way is made for them.
pub(super) fn takes<'a>(isa: Isa, part: &Part<'a>) -> Option<(&'a [bf16], &'a [bf16])> {
    match (part.a, part.b) {
        (Values::Bf16(a), Values::Bf16(b))
            if isa >= Isa::Avx512 && part.rows.len() > INVARIANT_ROWS && !a.is_empty() =>
        {
            Some((a, b))
        }
        _ => None,
    }
}

/// The product of matrices that [`takes`] gave.
pub(super) fn multiply(how: Product, (a, b): (&[bf16], &[bf16]), sizes: Sizes, out: &Results, place: Place<'_>) {
    let Sizes { m, n, k } = sizes;
    assert!(a.len() == m * k && b.len() == k * n && how.isa >= Isa::Avx512 && how.isa <= Isa::best());
    let pack_a = |row: usize, tiles: &mut [bf16]| match how.transpose_a {
        false => {
            for (i, row) in (row..row + SIDE).enumerate() {
                halves::pack_row(if row < m { &a[row * k..][..k] } else { &[] }, i, tiles);
            }
        }
        true => {
            let lanes = SIDE.min(m - row);
            for (step, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
                tile.fill(bf16::ZERO);
                for at in step * STEP..k.min((step + 1) * STEP) {
                    for (i, value) in a[at * m + row..][..lanes].iter().enumerate() {
                        tile[i * STEP + at % STEP] = *value;
                    }
                }
            }
        }
    };
    let pack_b = |column: usize, from: usize, tiles: &mut [bf16]| {
        let lanes = SIDE.min(n - column);
        for (at, tile) in (from..).step_by(STEP).zip(tiles.chunks_exact_mut(TILE)) {
            let depth = STEP.min(k.saturating_sub(at));
            // SAFETY: the level was checked; lanes and depth lie inside the matrix.
            unsafe {
                match how.transpose_b {
                    true => pack_across(&b[column * k..], k, lanes, at, depth, tile),
                    false => pack_along(b, n, column, lanes, at, depth, tile),
                }
            }
        }
    };
    let write = |row: usize, column: usize, sums: &mut [f32]| {
        // SAFETY: each row's part of some columns is written once.
        unsafe { out.write(how.isa, place(row) * n + column, sums) };
    };
    // SAFETY: the level was checked.
    unsafe { halves::multiply(how.isa, &Halves { m, n, k, pack_a: &pack_a, pack_b: &pack_b, write: &write }) };
}

/// A tile of lanes that are rows of `k` values: pairs of values are turned as words.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_across(rows: &[bf16], k: usize, lanes: usize, at: usize, depth: usize, tile: &mut [bf16]) {
    let mask = (1_u64 << depth).wrapping_sub(1) as u32;
    let mut words = [_mm512_setzero_ps(); SIDE];
    for (lane, words) in words.iter_mut().enumerate().take(lanes) {
        // SAFETY: the lane's values that are not masked lie inside the matrix.
        let row = unsafe { _mm512_maskz_loadu_epi16(mask, rows.as_ptr().wrapping_add(lane * k + at).cast()) };
        *words = _mm512_castsi512_ps(row);
    }
    for (pairs, to) in transposed(&words).into_iter().zip(tile.chunks_exact_mut(2 * SIDE)) {
        // SAFETY: there is room for 32 values.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), pairs) };
    }
}

/// A tile of lanes that are neighbours in rows of `n` values: two rows become one of pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_along(b: &[bf16], n: usize, column: usize, lanes: usize, at: usize, depth: usize, tile: &mut [bf16]) {
    let mask = ((1_u32 << lanes) - 1) as u16;
    let row = |i: usize| {
        let here = if i < depth { mask } else { 0 };
        // SAFETY: values that are not masked lie inside the matrix.
        let row = unsafe { _mm256_maskz_loadu_epi16(here, b.as_ptr().wrapping_add((at + i) * n + column).cast()) };
        _mm512_cvtepu16_epi32(row)
    };
    for (pair, to) in tile.chunks_exact_mut(2 * SIDE).enumerate() {
        let words = _mm512_or_si512(row(2 * pair), _mm512_slli_epi32::<16>(row(2 * pair + 1)));
        // SAFETY: there is room for 32 values.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) };
    }
}
