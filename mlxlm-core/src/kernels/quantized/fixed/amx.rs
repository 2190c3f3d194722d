//! Bytes times bytes by the tiles of AMX: 16 rows of activations against one or two panels at a time.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

use super::avx512::{numbers, of_planes, quad, with_group};
use super::rows::{COLUMNS, ROWS, Rows};
use super::{Block, LANES, WIDTH};
use crate::kernels::amx::{Config, Tiles, dot_signed_unsigned, load, store, zero};
use crate::kernels::scratch::{Scratch, bytes_of, with_scratch};
use crate::quant::Mode;
use crate::quant::panels::{Band, Panel, UNIT};

/// Sums of one group, `[panel][high or low][row][LANES]`, written by the tiles and read by vectors.
#[repr(align(64))]
struct Dots([[[[i32; LANES]; ROWS]; 2]; PAIR]);

/// Panels that the tiles multiply at a time.
const PAIR: usize = 2;
/// Groups that the tiles multiply before vectors add them up.
const BATCH: usize = 4;
/// Columns whose codes are bytes at a time, a multiple of every group.
const BLOCK: usize = 512;

thread_local! {
    static CODES: Scratch = const { Cell::new(Vec::new()) };
    static NUMBERS: Scratch = const { Cell::new(Vec::new()) };
}

/// See [`Block::multiply`]. Each block of rows stays in the first-level cache while the panels pass by.
///
/// # Safety
/// The machine must have the level, and the block and the band must have been checked.
pub(super) unsafe fn multiply(block: &Block<'_>, band: &Band<'_>, sums: &mut [f32]) {
    let layout = &band.layout;
    let each = layout.groups() * LANES;
    let plane = BLOCK.min(layout.columns.next_multiple_of(UNIT)) * LANES;
    with_scratch(&NUMBERS, 2 * band.panels * each, |room| {
        with_scratch(&CODES, PAIR * plane / 4, |codes| {
            let (scales, biases) = room.split_at_mut(band.panels * each);
            let codes = bytes_of(codes);
            // SAFETY: passed on from the caller; the rooms were measured.
            unsafe {
                for panel in 0..band.panels {
                    spread_numbers(&band.panel(panel), &mut scales[panel * each..], &mut biases[panel * each..]);
                }
                for from in (0..layout.columns).step_by(BLOCK) {
                    let columns = from..(from + BLOCK).min(layout.columns);
                    let groups = columns.start / layout.group()..columns.end / layout.group();
                    for first in (0..band.panels).step_by(PAIR) {
                        let pair = first..(first + PAIR).min(band.panels);
                        for (panel, codes) in pair.clone().zip(codes.chunks_exact_mut(plane)) {
                            of_codes!(layout, spread(&band.panel(panel), &columns, codes));
                        }
                        let centred = layout.scheme.mode != Mode::Affine;
                        let (scales, biases) = (&scales[first * each..], &biases[first * each..]);
                        let tile = Tile { rows: block.rows, from, codes, plane, centred, scales, biases };
                        rows_of(&tile, block, groups.clone(), pair.len(), &mut sums[first * LANES..]);
                    }
                }
            }
        });
    });
}

/// One block of columns of a pair of panels, and the rows of activations that it meets.
struct Tile<'a> {
    rows: &'a Rows<'a>,
    /// The first column, which begins a group.
    from: usize,
    /// `[column / 4][LANES][4]`, the panels `plane` bytes apart.
    codes: &'a [u8],
    plane: usize,
    /// Whether codes have a zero to be taken off.
    centred: bool,
    /// `[panel][group][LANES]` of all groups, from the pair on.
    scales: &'a [f32],
    biases: &'a [f32],
}

/// Scales and biases as `[group][LANES]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn spread_numbers(panel: &Panel<'_>, scales: &mut [f32], biases: &mut [f32]) {
    let layout = &panel.layout;
    for group in 0..layout.groups() {
        let (line, which) = panel.numbers(group);
        let line = line.as_ptr();
        let (scales, biases) = (&mut scales[group * LANES..][..LANES], &mut biases[group * LANES..][..LANES]);
        // SAFETY: the lines are those of the layout, and the rooms have 16 words.
        unsafe {
            let (scale, bias) = match layout.scheme.mode {
                Mode::Affine => numbers::<false>(layout, line, 0),
                _ => numbers::<true>(layout, line, which),
            };
            _mm512_storeu_ps(scales.as_mut_ptr(), scale);
            _mm512_storeu_ps(biases.as_mut_ptr(), bias);
        }
    }
}

/// The codes of some columns as bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn spread<const BITS: usize, const FLOAT: bool>(panel: &Panel<'_>, columns: &Range<usize>, out: &mut [u8]) {
    for (column, out) in columns.clone().step_by(UNIT).zip(out.chunks_exact_mut(UNIT * LANES)) {
        let unit = panel.unit(column / UNIT);
        for (q, out) in out.chunks_exact_mut(4 * LANES).enumerate() {
            // SAFETY: the unit has all its lines, and the quad its 64 bytes.
            unsafe { _mm512_storeu_epi8(out.as_mut_ptr().cast(), quad::<BITS, FLOAT>(unit.as_ptr(), q)) };
        }
    }
}

/// All rows of a block against one or two panels; the sums of a row are [`WIDTH`] apart, and begin with the first panel.
unsafe fn rows_of(tile: &Tile<'_>, block: &Block<'_>, groups: Range<usize>, panels: usize, sums: &mut [f32]) {
    let depth = tile.rows.group.min(COLUMNS);
    let whole = block.count / ROWS * ROWS;
    for (blocks, height) in [(0..whole, ROWS), (whole..block.count, block.count - whole)] {
        if blocks.is_empty() {
            continue;
        }
        let (sum, activations, codes) = ((height, 4 * LANES), (height, depth), (depth / 4, 4 * LANES));
        let shapes = [sum, sum, sum, sum, activations, activations, codes, codes];
        // SAFETY: passed on from the caller.
        unsafe {
            let _tiles = Tiles::configure(&Config::new(shapes));
            for at in blocks.step_by(ROWS) {
                let sums = &mut sums[at * WIDTH..][..(height - 1) * WIDTH + panels * LANES];
                match panels {
                    1 => block_of::<1>(tile, block.first + at, groups.clone(), sums),
                    _ => block_of::<2>(tile, block.first + at, groups.clone(), sums),
                }
            }
        }
    }
}

/// A block of rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn block_of<const P: usize>(tile: &Tile<'_>, row: usize, groups: Range<usize>, sums: &mut [f32]) {
    let mut dots = [const { Dots([[[[0; LANES]; ROWS]; 2]; PAIR]) }; BATCH];
    for from in groups.clone().step_by(BATCH) {
        let batch = from..(from + BATCH).min(groups.end);
        // SAFETY: passed on from the caller.
        unsafe {
            for (group, Dots(to)) in batch.clone().zip(&mut dots) {
                products::<P>(tile, row, group);
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
unsafe fn products<const P: usize>(tile: &Tile<'_>, row: usize, group: usize) {
    let rows = tile.rows;
    let depth = rows.group.min(COLUMNS);
    let begin = group * rows.group;
    let line = rows.line(row);
    // SAFETY: passed on from the caller.
    unsafe {
        zero::<0>();
        zero::<1>();
        if P == 2 {
            zero::<2>();
            zero::<3>();
        }
        for column in (begin..begin + rows.group).step_by(depth) {
            let at = line.at(column);
            load::<4>(rows.planes[0].as_ptr().add(at), COLUMNS);
            load::<5>(rows.planes[1].as_ptr().add(at), COLUMNS);
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

/// Adds the integer sums of `B` groups to the sums of all rows.
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
        // Loops rather than `from_fn`, which is compiled without this level's instructions and called.
        let mut params = [[(_mm512_setzero_ps(), _mm512_setzero_ps()); P]; B];
        for (b, params) in params.iter_mut().enumerate() {
            for (p, params) in params.iter_mut().enumerate() {
                let at = (p * rows.groups + first + b) * LANES;
                *params =
                    (_mm512_loadu_ps(tile.scales.as_ptr().add(at)), _mm512_loadu_ps(tile.biases.as_ptr().add(at)));
            }
        }
        let (steps, totals) = (rows.steps.as_ptr(), rows.sums.as_ptr());
        for r in 0..sums.len().div_ceil(WIDTH) {
            let (at, to) = ((row + r) * rows.groups + first, sums.as_mut_ptr().add(r * WIDTH));
            let mut sums = [_mm512_setzero_ps(); P];
            for (p, sums) in sums.iter_mut().enumerate() {
                *sums = _mm512_loadu_ps(to.add(p * LANES));
            }
            for b in 0..B {
                let activations = (*steps.add(at + b), *totals.add(at + b));
                let whole = if tile.centred { rows.integers.get_unchecked(at + b)[0] } else { 0 };
                for p in 0..P {
                    let part = |which: usize| _mm512_loadu_epi32(dots[b].0[p][which][r].as_ptr());
                    sums[p] = with_group(sums[p], of_planes(part(0), part(1), whole), params[b][p], activations);
                }
            }
            for (p, sums) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(p * LANES), sums);
            }
        }
    }
}
