//! Products with 8-bit floats (mxfp8), for any number of rows and any type of activations.
//!
//! The exponents of such codes span more bits than the integers of [`super::fixed`] have, so codes become f32 in registers, a lane for
//! each row of a panel, and meet activations in f32. A group's sum is multiplied by its scale at its end.
//!
//! A row's chain of multiply-adds depends on its own values only, so it has the same bits alone and in any company.

#![allow(
    clippy::inline_always,
    reason = "the body must be compiled inside each level's function to use its instructions"
)]

use std::cell::Cell;
use std::ops::Range;

use super::fixed::{Segment, Task, WIDTH, tasks};
use super::weights::e8m0;
use crate::kernels::convert::Values;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::quant::panels::{Band, LANES, UNIT};

/// Rows that meet a panel in one go, where there are registers for their sums.
const RUN: usize = 4;
/// Activations that a pass over the weights keeps in the second-level cache.
const NEAR: usize = 128 << 10;
/// Columns whose codes share a word of a lane.
const QUAD: usize = 4;

thread_local! {
    static PANELS: Scratch = const { Cell::new(Vec::new()) };
    static ROWS: Scratch = const { Cell::new(Vec::new()) };
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
}

/// `out[place(i)] = x[source(i)] @ w.T` for each segment and each row `i` of it. All matrices have the same columns.
pub(super) fn multiply(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segments: &[Segment<'_>],
    place: &(dyn Fn(usize) -> usize + Sync),
) {
    let tasks = tasks(segments);
    pool::parallel(tasks.len(), |i| {
        let Task { segment, bands } = &tasks[i];
        let segment = &segments[*segment];
        let columns = segment.w.columns();
        let near = (NEAR / columns.max(1)).max(1).next_multiple_of(RUN);
        for from in segment.rows.clone().step_by(near) {
            let rows = from..(from + near).min(segment.rows.end);
            with_scratch(&ROWS, rows.len() * columns, |room| {
                for (row, room) in rows.clone().zip(room.chunks_exact_mut(columns)) {
                    x.read(isa, source(row) * columns, room);
                }
                block(isa, room, &rows, segment, bands.clone(), place);
            });
        }
    });
}

/// Some rows, whose activations are `x`, against some bands.
fn block(
    isa: Isa,
    x: &[f32],
    rows: &Range<usize>,
    segment: &Segment<'_>,
    bands: Range<usize>,
    place: &(dyn Fn(usize) -> usize + Sync),
) {
    let outputs = segment.w.rows();
    with_scratch(&SUMS, rows.len() * WIDTH, |sums| {
        for band in bands {
            sums.fill(0.0);
            segment.w.with_band(isa, band, &PANELS, |band| products(isa, band, x, sums));
            let begin = band * WIDTH;
            let width = (outputs - begin).min(WIDTH);
            for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(WIDTH)) {
                // SAFETY: a row's part of these columns is written by this task only.
                unsafe { segment.out.write(isa, place(row) * outputs + begin, &mut sums[..width]) };
            }
        }
    });
}

/// Adds the products of all rows of `x` with a band to `sums`, `[row][panel][LANES]` with rows that are [`WIDTH`] apart.
fn products(isa: Isa, band: &Band<'_>, x: &[f32], sums: &mut [f32]) {
    #[target_feature(enable = "avx2,fma")]
    fn avx2(band: &Band<'_>, x: &[f32], sums: &mut [f32]) {
        in_runs::<true, 2>(band, x, sums);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(band: &Band<'_>, x: &[f32], sums: &mut [f32]) {
        in_runs::<true, RUN>(band, x, sums);
    }
    assert!(isa <= Isa::best());
    match isa {
        Isa::Portable => in_runs::<false, 1>(band, x, sums),
        // SAFETY: the level was checked.
        Isa::Avx2 => unsafe { avx2(band, x, sums) },
        // SAFETY: the level was checked.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(band, x, sums) },
    }
}

#[inline(always)]
fn in_runs<const FUSED: bool, const MOST: usize>(band: &Band<'_>, x: &[f32], sums: &mut [f32]) {
    let columns = band.layout.columns;
    let rows = x.len() / columns;
    let mut row = 0;
    while row < rows {
        let (x, sums) = (&x[row * columns..], &mut sums[row * WIDTH..]);
        row += if rows - row >= MOST { run::<FUSED, MOST>(band, x, sums) } else { run::<FUSED, 1>(band, x, sums) };
    }
}

/// The first `R` rows, which it returns the number of. Loops over lanes are what compilers make vectors of.
#[inline(always)]
fn run<const FUSED: bool, const R: usize>(band: &Band<'_>, x: &[f32], sums: &mut [f32]) -> usize {
    let layout = &band.layout;
    let (columns, groups, width) = (layout.columns, layout.groups(), layout.stripe_groups());
    for (stripe, all) in band.stripes().enumerate() {
        for (panel, lines) in all.chunks_exact(layout.stripe_words()).enumerate() {
            let (scales, codes) = lines.split_at(LANES);
            let here = stripe * width..groups.min((stripe + 1) * width);
            for ((g, scales), codes) in
                here.zip(scales.chunks_exact(LANES / 4)).zip(codes.chunks_exact(UNIT / QUAD * LANES))
            {
                let mut group = [&[0.0_f32; UNIT]; R];
                for (r, group) in group.iter_mut().enumerate() {
                    if let Some(values) = x[r * columns + g * UNIT..].first_chunk() {
                        *group = values;
                    }
                }
                let mut dots = [[0.0_f32; LANES]; R];
                for (q, line) in codes.as_chunks::<LANES>().0.iter().enumerate() {
                    for byte in 0..QUAD {
                        let mut weights = [0.0_f32; LANES];
                        for (weight, word) in weights.iter_mut().zip(line) {
                            *weight = value(word << (24 - 8 * byte));
                        }
                        for (dots, x) in dots.iter_mut().zip(&group) {
                            add::<FUSED>(dots, &weights, &[x[QUAD * q + byte]; LANES]);
                        }
                    }
                }
                let mut factors = [0.0_f32; LANES];
                for (lane, factor) in factors.iter_mut().enumerate() {
                    *factor = e8m0((scales[lane / 4] >> (8 * (lane % 4))) as u8);
                }
                for (r, dots) in dots.iter().enumerate() {
                    if let Some(total) = sums[r * WIDTH + panel * LANES..].first_chunk_mut() {
                        add::<FUSED>(total, dots, &factors);
                    }
                }
            }
        }
    }
    R
}

/// The 8-bit float in the uppermost byte, see [`super::weights::e4m3`].
#[inline(always)]
fn value(word: u32) -> f32 {
    // The sign stays, the exponent and the rest go to their places below it.
    let bits = ((word as i32) >> 4) as u32 & 0x87F0_0000;
    f32::from_bits(bits) * f32::from_bits((120 + 127) << 23)
}

#[inline(always)]
fn add<const FUSED: bool>(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
        *sum = if FUSED { a.mul_add(*b, *sum) } else { a * b + *sum };
    }
}
