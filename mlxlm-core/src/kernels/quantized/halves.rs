//! Products of many rows of bf16 with quantized weights, for AMX: weights become bf16 where they are used.
//!
//! Integers ([`super::fixed`]) need their groups added up one by one, which takes as long as the tiles themselves. Here a scale and
//! a bias go into each weight, which is rounded to bf16 once, as MLX's own operation does it.

use std::arch::x86_64::*;
use std::cell::Cell;

use half::bf16;

use super::FEW;
use super::fixed::{Segment, numbers, quad};
use super::matrix::Matrix;
use crate::kernels::convert::{Results, Values};
use crate::kernels::gemm::halves::{self, Halves, SIDE, STEP, TILE};
use crate::kernels::isa::Isa;
use crate::kernels::scratch::{Scratch, with_scratch, words_of};
use crate::quant::Mode;
use crate::quant::panels::{LANES, Layout, UNIT};

thread_local! {
    static PANEL: Scratch = const { Cell::new(Vec::new()) };
}

/// Whether [`multiply`] is faster than integers.
pub(super) fn takes(isa: Isa, x: &Values<'_>, segment: &Segment<'_>) -> bool {
    isa == Isa::Amx && segment.rows.len() > FEW && matches!(x, Values::Bf16(_))
}

/// `out[place(i)] = x[source(i)] @ w.T` for each row `i` of a segment.
pub(super) fn multiply(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segment: &Segment<'_>,
    place: &(dyn Fn(usize) -> usize + Sync),
    out: &Results,
) {
    let Values::Bf16(x) = x else { unreachable!("activations are bf16") };
    let (layout, first) = (segment.w.layout(), segment.rows.start);
    let (m, n, k) = (segment.rows.len(), layout.rows, layout.columns);
    let pack_a = |row: usize, tiles: &mut [bf16]| {
        for (i, row) in (row..row + SIDE).enumerate() {
            let from = if row < m { &x[source(first + row) * k..][..k] } else { &[] };
            for (step, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
                let to = &mut tile[i * STEP..][..STEP];
                let some = from.len().saturating_sub(step * STEP).min(STEP);
                to[..some].copy_from_slice(&from[from.len().min(step * STEP)..][..some]);
                to[some..].fill(bf16::ZERO);
            }
        }
    };
    let pack_b = |column: usize, k: usize, tiles: &mut [bf16]| pack(isa, &segment.w, &layout, column / LANES, k, tiles);
    let write = |row: usize, column: usize, sums: &mut [f32]| {
        // SAFETY: each row's part of some columns is written once.
        unsafe { out.write(isa, place(first + row) * n + column, sums) };
    };
    // SAFETY: the level was checked by `takes`.
    unsafe { halves::multiply(&Halves { m, n, k, pack_a: &pack_a, pack_b: &pack_b, write: &write }) };
}

/// Columns `from..` of a panel as tiles of bf16 pairs.
fn pack(isa: Isa, w: &Matrix<'_>, layout: &Layout, panel: usize, from: usize, tiles: &mut [bf16]) {
    with_scratch(&PANEL, layout.panel_words(), |room| {
        let lines = w.panel(isa, layout, panel, words_of(room));
        macro_rules! kinds {
            ($($bits:literal $float:literal),*) => {
                match (layout.bits(), layout.scheme.mode != Mode::Affine) {
                    // SAFETY: AMX comes with AVX-512, and `takes` saw that; the lines are those of a panel.
                    $(($bits, $float) => unsafe { unpack::<$bits, $float>(layout, lines, from, tiles) },)*
                    (bits, _) => unreachable!("no codes of {bits} bits"),
                }
            };
        }
        kinds!(2 false, 3 false, 4 false, 5 false, 6 false, 8 false, 4 true);
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn unpack<const BITS: usize, const FLOAT: bool>(
    layout: &Layout,
    lines: &[u32],
    from: usize,
    tiles: &mut [bf16],
) {
    const _: () = assert!(STEP == UNIT && SIDE == LANES);
    let width = layout.stripe_groups();
    for (column, tile) in (from..).step_by(UNIT).zip(tiles.chunks_exact_mut(TILE)) {
        let unit = &lines[layout.unit(column / UNIT)..][..BITS * LANES];
        for (q, to) in tile.chunks_exact_mut(4 * LANES).enumerate() {
            let column = column + 4 * q;
            if column >= layout.columns {
                to.fill(bf16::ZERO);
                continue;
            }
            let group = column / layout.group();
            let line = &lines[group / width * layout.stripe_words()..][..LANES];
            // SAFETY: the unit, the line and the room of two pairs of columns have their sizes.
            unsafe {
                let (scale, bias) = numbers::<FLOAT>(layout, line.as_ptr(), group % width);
                let codes = quad::<BITS, FLOAT>(unit.as_ptr(), q);
                let byte = _mm512_set1_epi32(255);
                let weights = [
                    _mm512_and_si512(codes, byte),
                    _mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte),
                    _mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte),
                    _mm512_srli_epi32::<24>(codes),
                ]
                .map(|codes| _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), scale, bias));
                let to = to.as_mut_ptr();
                _mm512_storeu_si512(to.cast(), pair(weights[0], weights[1]));
                _mm512_storeu_si512(to.add(2 * LANES).cast(), pair(weights[2], weights[3]));
            }
        }
    }
}

/// Two f32 vectors as bf16 side by side, rounded to nearest. Halves away from zero: weights are finite, and a tie is one of
/// 65,536.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn pair(low: __m512, high: __m512) -> __m512i {
    let rounded = |v: __m512| _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
    _mm512_mask_blend_epi16(0xAAAA_AAAA, _mm512_srli_epi32::<16>(rounded(low)), rounded(high))
}
