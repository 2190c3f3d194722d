//! A block of tiles by vectors, where there is no AMX: one instruction adds the products of a pair of bf16 to each of 16 sums.

use std::arch::x86_64::*;

use half::bf16;

use super::{SIDE, STEP, TILE};

/// Rows whose sums are in registers: those of two tiles of columns take 16.
const ROWS: usize = 8;
/// Pairs of values of `k` in a tile.
const PAIRS: usize = STEP / 2;

/// Adds `steps` tiles of `k` to the sums of a tile of rows and two of columns; they begin at zero if it is the first block. Rows of
/// sums are `line` apart.
///
/// # Safety
/// The machine must have AVX-512 with BF16; `a` and each of `b` must hold `steps` tiles, as [`super::Halves`] packs them, and `sums`
/// 16 rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn block(
    a: *const bf16,
    b: [*const bf16; 2],
    steps: usize,
    (sums, line): (*mut f32, usize),
    is_first: bool,
) {
    let pairs = |v: __m512i| {
        // SAFETY: both are 64 bytes.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(v) }
    };
    for first in (0..SIDE).step_by(ROWS) {
        let mut totals = [[_mm512_setzero_ps(); 2]; ROWS];
        // SAFETY: the caller vouches for tiles and sums.
        unsafe {
            if !is_first {
                for (row, totals) in totals.iter_mut().enumerate() {
                    for (half, total) in totals.iter_mut().enumerate() {
                        *total = _mm512_loadu_ps(sums.add((first + row) * line + half * SIDE));
                    }
                }
            }
            for step in 0..steps {
                let rows = a.add(step * TILE + first * STEP);
                for pair in 0..PAIRS {
                    let at = step * TILE + pair * 2 * SIDE;
                    let columns = [_mm512_loadu_si512(b[0].add(at).cast()), _mm512_loadu_si512(b[1].add(at).cast())];
                    for (row, totals) in totals.iter_mut().enumerate() {
                        let x = rows.add(row * STEP + 2 * pair).cast::<i32>().read_unaligned();
                        let x = pairs(_mm512_set1_epi32(x));
                        totals[0] = _mm512_dpbf16_ps(totals[0], pairs(columns[0]), x);
                        totals[1] = _mm512_dpbf16_ps(totals[1], pairs(columns[1]), x);
                    }
                }
            }
            for (row, totals) in totals.iter().enumerate() {
                for (half, total) in totals.iter().enumerate() {
                    _mm512_storeu_ps(sums.add((first + row) * line + half * SIDE), *total);
                }
            }
        }
    }
}
