//! Bytes times bytes by the tiles of AMX: 16 rows of activations against two panels at a time.

use std::arch::x86_64::*;

use super::avx512::accumulate;
use super::rows::{COLUMNS, ROWS};
use super::{LANES, PAIR, Tile};
use crate::kernels::amx::{Config, Tiles, dot_signed_unsigned, load, store, zero};

/// Sums of one group, `[panel][high or low][row][LANES]`, written by the tiles and read by vectors.
#[repr(align(64))]
struct Dots([[[[i32; LANES]; ROWS]; 2]; PAIR]);

/// See [`Tile::add`].
///
/// # Safety
/// The machine must have the level, and the tile must have been checked.
pub(super) unsafe fn add(tile: &Tile<'_>, panels: usize, sums: &mut [f32]) {
    let rows = sums.len() / (PAIR * LANES);
    let whole = rows / ROWS * ROWS;
    let (full, rest) = sums.split_at_mut(whole * PAIR * LANES);
    for (first, height, sums) in [(0, ROWS, full), (whole, rows - whole, rest)] {
        if sums.is_empty() {
            continue;
        }
        let depth = tile.rows.group.min(COLUMNS);
        let (sum, activations, codes) = ((height, 4 * LANES), (height, depth), (depth / 4, 4 * LANES));
        let shapes = [sum, sum, sum, sum, activations, activations, codes, codes];
        // SAFETY: passed on from the caller.
        unsafe {
            let _tiles = Tiles::configure(&Config::new(shapes));
            for (i, sums) in sums.chunks_exact_mut(height * PAIR * LANES).enumerate() {
                match panels {
                    1 => block_of::<1>(tile, tile.first + first + i * ROWS, sums),
                    _ => block_of::<2>(tile, tile.first + first + i * ROWS, sums),
                }
            }
        }
    }
}

/// A block of rows: while the tiles multiply a group, vectors add up the group before.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn block_of<const P: usize>(tile: &Tile<'_>, row: usize, sums: &mut [f32]) {
    let mut dots = [const { Dots([[[[0; LANES]; ROWS]; 2]; PAIR]) }; 2];
    let groups = tile.groups();
    // SAFETY: passed on from the caller.
    unsafe {
        for group in groups.clone() {
            multiply::<P>(tile, row, group);
            if group > groups.start {
                collect::<P>(tile, row, group - 1, &dots[(group - 1) % 2], sums);
            }
            let to = &mut dots[group % 2].0;
            store::<0>(to[0][0].as_mut_ptr().cast(), 4 * LANES);
            store::<1>(to[0][1].as_mut_ptr().cast(), 4 * LANES);
            if P == 2 {
                store::<2>(to[1][0].as_mut_ptr().cast(), 4 * LANES);
                store::<3>(to[1][1].as_mut_ptr().cast(), 4 * LANES);
            }
        }
        collect::<P>(tile, row, groups.end - 1, &dots[(groups.end - 1) % 2], sums);
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

/// Adds a group's integer sums to the sums of all rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
unsafe fn collect<const P: usize>(tile: &Tile<'_>, row: usize, group: usize, dots: &Dots, sums: &mut [f32]) {
    let rows = tile.rows;
    // SAFETY: passed on from the caller.
    unsafe {
        let params: [(__m512, __m512); P] = std::array::from_fn(|p| {
            let at = (p * rows.groups + group) * LANES;
            (_mm512_loadu_ps(tile.scales.as_ptr().add(at)), _mm512_loadu_ps(tile.biases.as_ptr().add(at)))
        });
        for r in 0..sums.len() / (PAIR * LANES) {
            let at = (row + r) * rows.groups + group;
            let activations = (*rows.steps.get_unchecked(at), *rows.sums.get_unchecked(at));
            for (p, params) in params.iter().enumerate() {
                let part = |which: usize| _mm512_loadu_epi32(dots.0[p][which][r].as_ptr());
                let to = sums.as_mut_ptr().add((r * PAIR + p) * LANES);
                accumulate(to, part(0), part(1), *params, activations);
            }
        }
    }
}
