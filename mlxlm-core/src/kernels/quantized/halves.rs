//! Products of many rows of bf16 with quantized weights, for AMX: weights become bf16 where they are used.
//!
//! Integers ([`super::fixed`]) need their groups added up one by one, which takes as long as the tiles themselves. Here a scale and
//! a bias go into each weight, which is rounded to bf16 once, as MLX's own operation does it.

use std::arch::x86_64::*;
use std::cell::Cell;

use half::bf16;

use super::INVARIANT_ROWS;
use super::fixed::{Segment, ZERO, e4m3, numbers, of_codes, quad};
use super::matrix::{Matrix, arrange};
use crate::kernels::convert::Values;
use crate::kernels::gemm::halves::{self, Halves, SIDE, STEP, TILE};
use crate::kernels::isa::Isa;
use crate::kernels::scratch::{Scratch, with_scratch, words_of};
use crate::quant::Mode;
use crate::quant::panels::{LANES, Layout, Panel, UNIT};

/// Rows of a matrix that are put into panels at a time, if they are not.
const SLICE: usize = 2048;

thread_local! {
    static ARRANGED: Scratch = const { Cell::new(Vec::new()) };
}

/// Whether [`multiply`] is faster than integers.
pub(super) fn takes(isa: Isa, x: &Values<'_>, segment: &Segment<'_>) -> bool {
    isa == Isa::Amx && segment.rows.len() > INVARIANT_ROWS && matches!(x, Values::Bf16(_)) && segment.w.columns() > 0
}

/// `out[place(i)] = x[source(i)] @ w.T` for each row `i` of a segment.
pub(super) fn multiply(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segment: &Segment<'_>,
    place: &(dyn Fn(usize) -> usize + Sync),
) {
    let Values::Bf16(x) = x else { unreachable!("activations are bf16") };
    let first = segment.rows.start;
    let (m, outer, k) = (segment.rows.len(), segment.w.rows(), segment.w.columns());
    let pack_a = |row: usize, tiles: &mut [bf16]| {
        for (i, row) in (row..row + SIDE).enumerate() {
            halves::pack_row(if row < m { &x[source(first + row) * k..][..k] } else { &[] }, i, tiles);
        }
    };
    // Some rows of the matrix, from `begin` on, in panels.
    let product = |layout: &Layout, lines: &[u32], begin: usize| {
        let pack_b = |column: usize, k: usize, tiles: &mut [bf16]| {
            let panel = layout.panel(lines, column / LANES);
            // SAFETY: AMX comes with AVX-512, and `takes` saw that.
            unsafe {
                match layout.scheme.mode {
                    Mode::Mxfp8 => unpack::<8, true>(&panel, k, tiles),
                    _ => of_codes!(layout, unpack(&panel, k, tiles)),
                }
            };
        };
        let write = |row: usize, column: usize, sums: &mut [f32]| {
            // SAFETY: each row's part of some columns is written once.
            unsafe { segment.out.write(isa, place(first + row) * outer + begin + column, sums) };
        };
        let product = Halves { m, n: layout.rows, k, pack_a: &pack_a, pack_b: &pack_b, write: &write };
        // SAFETY: the level was checked by `takes`.
        unsafe { halves::multiply(isa, &product) };
    };
    match &segment.w {
        Matrix::Panels(layout, lines) => product(layout, lines, 0),
        Matrix::Rows(w) => {
            for begin in (0..outer).step_by(SLICE) {
                let part = w.part(begin, SLICE.min(outer - begin));
                let layout = Matrix::Rows(part).layout();
                with_scratch(&ARRANGED, layout.words(), |lines| {
                    arrange(&layout, &part.source(), words_of(lines));
                    product(&layout, words_of(lines), begin);
                });
            }
        }
    }
}

/// Columns `from..` of a panel as tiles of bf16 pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn unpack<const BITS: usize, const FLOAT: bool>(panel: &Panel<'_>, from: usize, tiles: &mut [bf16]) {
    const _: () = assert!(STEP == UNIT && SIDE == LANES);
    // Codes of 4-bit floats may have two groups in a unit; a group of more units has the same numbers in each.
    let layout = &panel.layout;
    let group = layout.group().min(UNIT);
    for (column, tile) in (from..).step_by(UNIT).zip(tiles.chunks_exact_mut(TILE)) {
        // A row may end with half a unit.
        let some = UNIT.min(layout.columns.saturating_sub(column));
        tile[some * LANES..].fill(bf16::ZERO);
        if some == 0 {
            continue;
        }
        let unit = panel.unit(column / UNIT);
        for begin in (0..some).step_by(group) {
            let (line, which) = panel.numbers(layout.group_of(column + begin));
            // SAFETY: the unit and the lines have their sizes, and a tile has 16 values for each column.
            unsafe {
                let numbers = numbers::<FLOAT>(layout, line.as_ptr(), which);
                let (codes, to) =
                    (unit.as_ptr().add(begin * BITS * LANES / UNIT), tile.as_mut_ptr().add(begin * LANES));
                match group {
                    UNIT => weights_of::<BITS, FLOAT, { UNIT / 4 }>(codes, numbers, to),
                    _ => weights_of::<BITS, FLOAT, { UNIT / 8 }>(codes, numbers, to),
                }
            }
        }
    }
}

/// `N` quads of columns of one group.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn weights_of<const BITS: usize, const FLOAT: bool, const N: usize>(
    codes: *const u32,
    (scale, bias): (__m512, __m512),
    to: *mut bf16,
) {
    let weights = |codes: __m512i| match BITS {
        8 if FLOAT => _mm512_mul_ps(e4m3(codes), scale),
        _ if FLOAT => _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(codes, _mm512_set1_epi32(ZERO))), scale),
        _ => _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), scale, bias),
    };
    let byte = _mm512_set1_epi32(255);
    for q in 0..N {
        // SAFETY: passed on from the caller.
        unsafe {
            let codes = quad::<BITS, FLOAT>(codes, q);
            let first = weights(_mm512_and_si512(codes, byte));
            let second = weights(_mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte));
            let third = weights(_mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte));
            let fourth = weights(_mm512_srli_epi32::<24>(codes));
            let to = to.add(4 * q * LANES);
            _mm512_storeu_si512(to.cast(), pair(first, second));
            _mm512_storeu_si512(to.add(2 * LANES).cast(), pair(third, fourth));
        }
    }
}

/// Two f32 vectors as bf16 side by side, rounded to nearest, ties to even: with scales of 8 bits an eighth of all weights are ties,
/// and they would all grow if ties went away from zero. Weights are numbers or infinite.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn pair(low: __m512, high: __m512) -> __m512i {
    let rounded = |v: __m512| {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)))
    };
    _mm512_mask_blend_epi16(0xAAAA_AAAA, _mm512_srli_epi32::<16>(rounded(low)), rounded(high))
}
