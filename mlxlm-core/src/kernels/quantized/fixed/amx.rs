//! Bytes times bytes by the tiles of AMX: 16 rows of activations against two panels at a time.

use std::arch::x86_64::*;

use super::avx512::with_group;
use super::rows::{COLUMNS, ROWS};
use super::{LANES, PAIR, Tile};
use crate::kernels::amx::{Config, Tiles, dot_signed_unsigned, load, store, zero};

/// Sums of one group, `[panel][high or low][row][LANES]`, written by the tiles and read by vectors.
#[repr(align(64))]
struct Dots([[[[i32; LANES]; ROWS]; 2]; PAIR]);

/// Groups that the tiles multiply before vectors add them up.
const BATCH: usize = 4;

/// See [`Tile::add`]. Each block of rows stays in the first-level cache while all panels pass by.
///
/// # Safety
/// The machine must have the level, and the tile must have been checked.
pub(super) unsafe fn add(tile: &Tile<'_>, sums: &mut [f32]) {
    let (rows, own) = (tile.count, tile.sums());
    let depth = tile.rows.group.min(COLUMNS);
    let whole = rows / ROWS * ROWS;
    for (blocks, height) in [(0..whole, ROWS), (whole..rows, rows - whole)] {
        if blocks.is_empty() {
            continue;
        }
        let (sum, activations, codes) = ((height, 4 * LANES), (height, depth), (depth / 4, 4 * LANES));
        let shapes = [sum, sum, sum, sum, activations, activations, codes, codes];
        // SAFETY: passed on from the caller.
        unsafe {
            let _tiles = Tiles::configure(&Config::new(shapes));
            for block in blocks.step_by(ROWS) {
                for (i, sums) in sums.chunks_exact_mut(own).enumerate() {
                    let (tile, panels) = tile.pair(i);
                    let sums = &mut sums[block * PAIR * LANES..][..height * PAIR * LANES];
                    match panels {
                        1 => block_of::<1>(&tile, tile.first + block, sums),
                        _ => block_of::<2>(&tile, tile.first + block, sums),
                    }
                }
            }
        }
    }
}

/// A block of rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn block_of<const P: usize>(tile: &Tile<'_>, row: usize, sums: &mut [f32]) {
    let mut dots = [const { Dots([[[[0; LANES]; ROWS]; 2]; PAIR]) }; BATCH];
    let groups = tile.groups();
    for from in groups.clone().step_by(BATCH) {
        let batch = from..(from + BATCH).min(groups.end);
        // SAFETY: passed on from the caller.
        unsafe {
            for (group, Dots(to)) in batch.clone().zip(&mut dots) {
                multiply::<P>(tile, row, group);
                store::<0>(to[0][0].as_mut_ptr().cast(), 4 * LANES);
                store::<1>(to[0][1].as_mut_ptr().cast(), 4 * LANES);
                if P == 2 {
                    store::<2>(to[1][0].as_mut_ptr().cast(), 4 * LANES);
                    store::<3>(to[1][1].as_mut_ptr().cast(), 4 * LANES);
                }
            }
            match batch.len() {
                1 => collect::<P, 1>(tile, row, from, &dots, sums),
                2 => collect::<P, 2>(tile, row, from, &dots, sums),
                3 => collect::<P, 3>(tile, row, from, &dots, sums),
                _ => collect::<P, BATCH>(tile, row, from, &dots, sums),
            }
        }
    }
}

/// Tiles 0 and 1 become the high and low sums of the first panel, 2 and 3 those of the second.
#[inline(always)]
unsafe fn multiply<const P: usize>(tile: &Tile<'_>, row: usize, group: usize) {
    let rows = tile.rows;
    let depth = rows.group.min(COLUMNS);
    let begin = group * rows.group;
    // SAFETY: passed on from the caller.
    unsafe {
        zero::<0>();
        zero::<1>();
        if P == 2 {
            zero::<2>();
            zero::<3>();
        }
        for column in (begin..begin + rows.group).step_by(depth) {
            let at = rows.at(row, column);
            load::<4>(rows.high.as_ptr().add(at), COLUMNS);
            load::<5>(rows.low.as_ptr().add(at), COLUMNS);
            let codes = tile.codes.as_ptr().add((column - tile.from) * LANES);
            load::<6>(codes, 4 * LANES);
            dot_signed_unsigned::<0, 4, 6>();
            dot_signed_unsigned::<1, 5, 6>();
            if P == 2 {
                load::<7>(codes.add(tile.plane), 4 * LANES);
                dot_signed_unsigned::<2, 4, 7>();
                dot_signed_unsigned::<3, 5, 7>();
            }
        }
    }
}

/// Adds the integer sums of `B` groups to the sums of all rows, which the first group begins.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn collect<const P: usize, const B: usize>(
    tile: &Tile<'_>,
    row: usize,
    first: usize,
    dots: &[Dots; BATCH],
    sums: &mut [f32],
) {
    let rows = tile.rows;
    // SAFETY: passed on from the caller.
    unsafe {
        let params: [[(__m512, __m512); P]; B] = std::array::from_fn(|b| {
            std::array::from_fn(|p| {
                let at = (p * rows.groups + first + b) * LANES;
                (_mm512_loadu_ps(tile.scales.as_ptr().add(at)), _mm512_loadu_ps(tile.biases.as_ptr().add(at)))
            })
        });
        let (steps, totals) = (rows.steps.as_ptr(), rows.sums.as_ptr());
        for r in 0..sums.len() / (PAIR * LANES) {
            let (at, to) = ((row + r) * rows.groups + first, sums.as_mut_ptr().add(r * PAIR * LANES));
            let begun = |p: usize| if first == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(to.add(p * LANES)) };
            let mut sums: [__m512; P] = std::array::from_fn(begun);
            for b in 0..B {
                let activations = (*steps.add(at + b), *totals.add(at + b));
                for p in 0..P {
                    let part = |which: usize| _mm512_loadu_epi32(dots[b].0[p][which][r].as_ptr());
                    let dots = _mm512_add_epi32(_mm512_slli_epi32::<8>(part(0)), part(1));
                    sums[p] = with_group(sums[p], dots, params[b][p], activations);
                }
            }
            for (p, sums) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(p * LANES), sums);
            }
        }
    }
}
