//! Products with quantized matrices in integers: any number of rows, all levels, the same bits.
//!
//! Within a group of columns the activations become fixed-point numbers over a common power of two ([`rows`]), of 15 bits if they
//! have 16 and of 31 bits if they have 32, and the codes are small integers already, so a group's sum of products is an exact
//! integer, or two: of the upper and of the lower 16 bits. Then one multiply-add by the weights' scale and one by their bias go to
//! the result, group after group, in f32.
//!
//! What is unusual:
//! - Integer sums do not depend on their order, and the chain of f32 operations is fixed. So a row has the same bits alone and in
//!   any company, and at every level: one vector instruction (VNNI), a matrix tile (AMX) and a plain loop give the same.
//! - Of the activations of a group, those larger than 1/64 of the largest are exact in bf16 and f32 (1/8 in f16); the others are
//!   off by half a step at most, 2⁻¹⁴ (2⁻³⁰) of the largest. Where that would tell beside the rounding of 16-bit results, because
//!   few activations are hundreds of times as large as the others, the row is computed with as if it were f32.
//! - Weights are read in panels of 16 rows, a lane for each, and bands of four panels ([`crate::quant::panels`]), each of them one
//!   stream of memory. A matrix that is not in panels is put into them a band at a time, in the second-level cache.

use std::cell::Cell;
use std::ops::Range;

use super::matrix::Matrix;
use crate::kernels::convert::{Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, with_scratch};
use crate::quant::panels::{BAND, Band, LANES};

/// Calls the version of a function that is made for the codes of a layout: `of_codes!(layout, f::<R>(…))` calls
/// `f::<BITS, FLOAT, R>(…)`, where `FLOAT` tells codes that are 4-bit floats.
macro_rules! of_codes {
    ($layout:expr, $f:ident $(::<$($more:tt),+>)? ($($argument:expr),* $(,)?)) => {
        match ($layout.bits(), $layout.scheme.mode != $crate::quant::Mode::Affine) {
            (2, false) => $f::<2, false $(, $($more),+)?>($($argument),*),
            (3, false) => $f::<3, false $(, $($more),+)?>($($argument),*),
            (4, false) => $f::<4, false $(, $($more),+)?>($($argument),*),
            (5, false) => $f::<5, false $(, $($more),+)?>($($argument),*),
            (6, false) => $f::<6, false $(, $($more),+)?>($($argument),*),
            (8, false) => $f::<8, false $(, $($more),+)?>($($argument),*),
            (4, true) => $f::<4, true $(, $($more),+)?>($($argument),*),
            (bits, _) => unreachable!("no codes of {bits} bits"),
        }
    };
}
pub(super) use of_codes;

mod amx;
mod avx2;
mod avx512;
mod plain;
mod rows;

pub(super) use avx512::{e4m3, numbers, quad};
use rows::{FLOAT_PLANES, HALF_PLANES, Rows};

/// Rows of weights in a band, and so from the sums of a row of activations to those of the next.
pub(super) const WIDTH: usize = BAND * LANES;
/// Rows from which on the tiles of AMX are faster than vectors.
const TILES: usize = 5;
/// Bytes of activations that a pass over the weights keeps in the second-level cache.
const NEAR: usize = 640 << 10;
/// Rows of activations that are in fixed point at a time.
const MANY: usize = 256;
/// Rows of activations up to which memory is what products wait for.
const FEW: usize = 64;
/// Words of a task's bands for few rows: so few that threads end at nearly the same time.
const TASK: usize = 32 << 10;
/// Below this many multiply-adds another core is not worth waking.
const SERIAL: usize = 400_000;

/// What the squares of steps may be of those of mean magnitudes, in bf16 and f16. A step's twelfth is the mean square of what an
/// activation is off by; a sum of normal numbers, which is rounded by some 2⁻¹⁸ / 3 of its square in bf16, is about the mean
/// magnitudes times 1.6: so activations are off by as much as results. In f16 they may be off by three times that; MLX's own sums,
/// which are f16 all along, are off by more.
const TOLERANCES: [f32; 2] = [2.4e-5, 4e-6];

/// The 4-bit floats (e2m1) are halves of these less [`ZERO`], which is taken off the sums while they are integers.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
pub(super) const ZERO: i32 = 12;
/// What a scale becomes when codes are `E2M1`.
const HALF: f32 = 0.5;

thread_local! {
    static PANELS: Scratch = const { Cell::new(Vec::new()) };
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
}

/// Some rows of activations and a matrix that they meet.
pub(super) struct Segment<'a> {
    /// The rows' numbers, which `multiply` passes to `source` and `place`.
    pub(super) rows: Range<usize>,
    pub(super) w: Matrix<'a>,
    pub(super) out: Results,
}

/// `out[place(i)] = x[source(i)] @ w.T` for each segment and each row `i` of it. All matrices have the same columns and groups;
/// neighbours may have the same rows. Returns the rows that were left out because they hold a number that is too large or not
/// finite, or, in 16 bits, a few that are so large that the others would be off by more than [`TOLERANCES`] allow.
pub(super) fn multiply<'a>(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segments: &[Segment<'a>],
    place: &(dyn Fn(usize) -> usize + Sync),
) -> Vec<usize> {
    let Some(first) = segments.first() else { return Vec::new() };
    if longest(segments) > MANY {
        let parts = (0..longest(segments)).step_by(MANY).map(|from| {
            let part = |of: &Segment<'a>| {
                let rows = (of.rows.start + from)..of.rows.end.min(of.rows.start + from + MANY);
                (!rows.is_empty()).then_some(Segment { rows, ..*of })
            };
            multiply(isa, x, source, &segments.iter().filter_map(part).collect::<Vec<_>>(), place)
        });
        return parts.collect::<Vec<_>>().concat();
    }
    // Each segment's rows begin a tile.
    let height = longest(segments).next_power_of_two().min(rows::ROWS);
    let mut numbers = Vec::new();
    let mut firsts: Vec<usize> = Vec::with_capacity(segments.len());
    for (i, segment) in segments.iter().enumerate() {
        if i > 0 && segment.rows == segments[i - 1].rows {
            firsts.push(firsts[i - 1]);
            continue;
        }
        firsts.push(numbers.len());
        numbers.extend(segment.rows.clone().map(Some));
        numbers.resize(numbers.len().next_multiple_of(height), None);
    }
    let chosen: Vec<_> = numbers.iter().map(|number| number.map(source)).collect();
    let layout = first.w.layout();
    let multiply = |rows: &Rows<'_>, odd: &[bool]| {
        let all_odd = numbers.iter().zip(odd).all(|(number, odd)| number.is_none() || *odd);
        let tasks = if all_odd { Vec::new() } else { tasks(segments) };
        let numbers = &numbers;
        pool::parallel(tasks.len(), |i| {
            let Task { segment, bands } = &tasks[i];
            let (first, segment) = (firsts[*segment], &segments[*segment]);
            let job = Job { isa, rows, segment, numbers, odd, place };
            job.run(first..first + segment.rows.len(), bands.clone());
        });
        numbers.iter().zip(odd).filter_map(|(number, odd)| number.filter(|_| *odd)).collect()
    };
    match x {
        Values::F32(_) => rows::with_rows::<FLOAT_PLANES, _>(isa, x, &chosen, height, &layout, f32::INFINITY, multiply),
        Values::F16(_) | Values::Bf16(_) => {
            let tolerance = TOLERANCES[usize::from(matches!(x, Values::F16(_)))];
            rows::with_rows::<HALF_PLANES, _>(isa, x, &chosen, height, &layout, tolerance, multiply)
        }
    }
}

fn longest(segments: &[Segment<'_>]) -> usize {
    segments.iter().map(|segment| segment.rows.len()).max().unwrap_or(0)
}

/// Some bands of a segment's matrix.
pub(super) struct Task {
    pub(super) segment: usize,
    pub(super) bands: Range<usize>,
}

/// The work of a product, cut into tasks.
pub(super) fn tasks(segments: &[Segment<'_>]) -> Vec<Task> {
    let layouts = || segments.iter().map(|segment| segment.w.layout());
    let work: usize = segments.iter().map(|segment| segment.rows.len() * segment.w.rows() * segment.w.columns()).sum();
    let words: usize = layouts().map(|layout| layout.words()).sum();
    let each = words / pool::threads();
    // A task of many rows reads all of them, once for all of its bands.
    let most = match longest(segments) {
        _ if work < SERIAL => usize::MAX,
        0..=FEW => (each / 4).min(TASK),
        _ => each / 8,
    };
    let mut tasks = Vec::new();
    for (segment, layout) in layouts().enumerate() {
        let step = (most / (BAND * layout.panel_words()).max(1)).clamp(1, layout.bands().max(1));
        let parts = (0..layout.bands()).step_by(step);
        tasks.extend(parts.map(|from| Task { segment, bands: from..(from + step).min(layout.bands()) }));
    }
    tasks
}

/// What a task works on.
struct Job<'a> {
    isa: Isa,
    rows: &'a Rows<'a>,
    segment: &'a Segment<'a>,
    /// For each of the rows its number, and whether it is left out.
    numbers: &'a [Option<usize>],
    odd: &'a [bool],
    place: &'a (dyn Fn(usize) -> usize + Sync),
}

impl Job<'_> {
    /// All rows against some bands: a block of rows after the other, which stays in the second-level cache.
    fn run(&self, all: Range<usize>, bands: Range<usize>) {
        let near = (NEAR / (self.rows.planes.len() * self.rows.columns)).max(1).next_multiple_of(rows::ROWS);
        for from in all.clone().step_by(near) {
            let rows = from..(from + near).min(all.end);
            with_scratch(&SUMS, rows.len() * WIDTH, |sums| {
                for band in bands.clone() {
                    sums.fill(0.0);
                    let block = Block { rows: self.rows, first: rows.start, count: rows.len() };
                    self.segment.w.with_band(self.isa, band, &PANELS, |panels| block.multiply(self.isa, panels, sums));
                    self.finish(&rows, band, sums);
                }
            });
        }
    }

    /// Writes the results of a band, and no others: those are another task's.
    fn finish(&self, rows: &Range<usize>, band: usize, sums: &mut [f32]) {
        let (outputs, first) = (self.segment.w.rows(), band * WIDTH);
        let width = (outputs - first).min(WIDTH);
        for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(WIDTH)) {
            if let (Some(number), false) = (self.numbers[row], self.odd[row]) {
                // SAFETY: a row's part of these columns is written by this task only.
                unsafe { self.segment.out.write(self.isa, (self.place)(number) * outputs + first, &mut sums[..width]) };
            }
        }
    }
}

/// Some rows of activations.
struct Block<'a> {
    rows: &'a Rows<'a>,
    /// The first of the rows, which begins a tile, and how many there are.
    first: usize,
    count: usize,
}

impl Block<'_> {
    /// Adds the products with a band to `sums`, `[row][panel][LANES]` with rows that are [`WIDTH`] apart.
    fn multiply(&self, isa: Isa, band: &Band<'_>, sums: &mut [f32]) {
        let (layout, rows) = (&band.layout, self.rows);
        assert!(isa <= Isa::best() && rows.columns == layout.columns);
        assert!(rows.group == layout.group() && rows.groups == layout.groups());
        assert!(self.first.is_multiple_of(rows.height) && self.first + self.count <= rows.len);
        assert!(band.panels <= BAND && band.lines.len() == band.panels * layout.panel_words());
        assert!(sums.len() >= self.count * WIDTH);
        let by_tiles = isa == Isa::Amx && self.count >= TILES && rows.planes.len() == HALF_PLANES;
        // SAFETY: the level and all sizes were checked.
        unsafe {
            match isa {
                Isa::Portable => plain::multiply(self, band, sums),
                Isa::Avx2 => avx2::multiply(self, band, sums),
                Isa::Amx if by_tiles => amx::multiply(self, band, sums),
                Isa::Avx512 | Isa::Amx => avx512::multiply(self, band, sums),
            }
        }
    }

    /// The rows in runs of 8, 4, 2 and 1, none of which crosses a tile.
    fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let left = self.count - at;
            let height = *[8, 4, 2, 1].iter().find(|height| **height <= left)?;
            at += height;
            Some((at - height, height))
        })
    }
}

#[cfg(test)]
mod tests;
