//! Products of 16-bit activations with quantized matrices, in integers: any number of rows, all levels, the same bits.
//!
//! Within a group of columns the activations become 15-bit fixed-point numbers over a common power of two ([`rows`]), and the codes
//! are small integers already ([`panel`]), so a group's sum of products is an exact integer. Then one multiply-add by the weights'
//! scale and one by their bias go to the result, group after group, in f32.
//!
//! What is unusual:
//! - Integer sums do not depend on their order, and the chain of f32 operations is fixed. So a row has the same bits alone and in
//!   any company, and at every level: one vector instruction (VNNI), a matrix tile (AMX) and a plain loop give the same.
//! - Of the activations of a group, those larger than 1/64 of the largest in bf16 (1/8 in f16) are exact; the others are off by
//!   2⁻¹⁴ of the largest at most, half a step.
//! - Weights stay as they are in the file and pass through the first-level cache as bytes, 16 rows at a time.

use std::cell::Cell;
use std::ops::Range;

use super::weights::Weights;
use crate::kernels::convert::{Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, bytes_of, with_scratch};
use crate::quant::Mode;

mod amx;
mod avx2;
mod avx512;
mod few;
mod panel;
mod plain;
mod rows;

use rows::Rows;

/// Rows of weights in a panel: the lanes of a vector of sums.
const LANES: usize = 16;
/// Panels that are multiplied together.
const PAIR: usize = 2;
/// Columns whose codes are unpacked at a time, a multiple of every group.
const BLOCK: usize = 512;
/// Rows of activations up to which the codes of a pair pass by all of them at once, column by column.
const FEW: usize = 64;
/// Pairs that share a pass over many rows, whose block of columns stays in the second-level cache.
const SPAN: usize = 8;
/// Rows of activations in one pass over the weights.
const MANY: usize = 512;
/// Below this many multiply-adds another core is not worth waking.
const SERIAL: usize = 400_000;

thread_local! {
    static CODES: Scratch = const { Cell::new(Vec::new()) };
    static PARAMS: Scratch = const { Cell::new(Vec::new()) };
    static SUMS: Scratch = const { Cell::new(Vec::new()) };
}

/// Whether the codes are small integers; 8-bit floats are not.
pub(super) fn covers(w: &Weights<'_>) -> bool {
    w.scheme.mode != Mode::Mxfp8
}

/// Some rows of activations and the matrix that they meet.
pub(super) struct Segment<'a> {
    /// The rows' numbers, which `multiply` passes to `source` and `place`.
    pub(super) rows: Range<usize>,
    pub(super) w: Weights<'a>,
}

/// `out[place(i)] = x[source(i)] @ w.T` for each row `i` of the segments, whose matrices have the same shape. Returns the rows that
/// were left out because they hold a number that is not finite.
pub(super) fn multiply(
    isa: Isa,
    x: &Values<'_>,
    source: &(dyn Fn(usize) -> usize + Sync),
    segments: &[Segment<'_>],
    place: &(dyn Fn(usize) -> usize + Sync),
    out: &Results,
) -> Vec<usize> {
    let Some(Segment { w, .. }) = segments.first() else { return Vec::new() };
    // Each segment's rows begin a tile.
    let mut numbers = Vec::new();
    let mut firsts = Vec::new();
    for segment in segments {
        firsts.push(numbers.len());
        numbers.extend(segment.rows.clone().map(Some));
        numbers.resize(numbers.len().next_multiple_of(rows::ROWS), None);
    }
    let chosen: Vec<_> = numbers.iter().map(|number| number.map(source)).collect();
    let real = chosen.iter().flatten().count();
    rows::with_rows(isa, x, &chosen, w, |rows, odd| {
        let tasks = tasks(segments, real * w.rows * w.columns < SERIAL);
        let job = |first: usize, segment: &'_ Segment<'_>| {
            let own = first..first + segment.rows.len();
            let lines = (isa >= Isa::Avx512 && own.len() <= few::ROWS).then(|| few::Lines::new(rows, &own, w.bits()));
            (own, lines)
        };
        let jobs: Vec<_> = firsts.iter().zip(segments).map(|(&first, segment)| job(first, segment)).collect();
        let numbers = &numbers;
        pool::parallel(tasks.len(), |i| {
            let Task { segment, panels } = &tasks[i];
            let (own, lines) = &jobs[*segment];
            let job = Job { isa, rows, w: &segments[*segment].w, numbers, odd, place, out };
            match lines {
                // SAFETY: the level was checked, and these are the rows of the lines.
                Some(lines) => unsafe { job.few(own, lines, panels.clone()) },
                None => job.run(own.clone(), panels.clone()),
            }
        });
        numbers.iter().zip(odd).filter_map(|(number, odd)| number.filter(|_| *odd)).collect()
    })
}

/// Some panels of a segment's matrix.
struct Task {
    segment: usize,
    panels: Range<usize>,
}

fn tasks(segments: &[Segment<'_>], serial: bool) -> Vec<Task> {
    let panels = |segment: &Segment<'_>| segment.w.rows.div_ceil(LANES);
    let all: usize = segments.iter().map(panels).sum();
    let wanted = if serial { 1 } else { 4 * pool::threads() };
    let mut tasks = Vec::new();
    for (i, segment) in segments.iter().enumerate() {
        let most = if segment.rows.len() > FEW { SPAN * PAIR } else { usize::MAX };
        let step = all.div_ceil(wanted).next_multiple_of(PAIR).min(most);
        let parts = (0..panels(segment)).step_by(step);
        tasks.extend(parts.map(|from| Task { segment: i, panels: from..(from + step).min(panels(segment)) }));
    }
    tasks
}

/// What a task works on.
struct Job<'a> {
    isa: Isa,
    rows: &'a Rows<'a>,
    w: &'a Weights<'a>,
    /// For each of the rows its number, and whether it is left out.
    numbers: &'a [Option<usize>],
    odd: &'a [bool],
    place: &'a (dyn Fn(usize) -> usize + Sync),
    out: &'a Results,
}

impl Job<'_> {
    fn run(&self, all: Range<usize>, panels: Range<usize>) {
        for from in all.clone().step_by(MANY) {
            let rows = from..(from + MANY).min(all.end);
            let span = PAIR * if rows.len() > FEW { SPAN } else { 1 };
            for first in panels.clone().step_by(span) {
                self.span(&rows, first..(first + span).min(panels.end));
            }
        }
    }

    /// One or two rows against some panels.
    ///
    /// # Safety
    /// The machine must have AVX-512.
    unsafe fn few(&self, rows: &Range<usize>, lines: &few::Lines<'_>, panels: Range<usize>) {
        let (w, size) = (self.w, self.w.groups() * LANES);
        let mut sums = [0.0; few::ROWS * PAIR * LANES];
        with_scratch(&PARAMS, 2 * size, |params| {
            with_scratch(&CODES, 16 * lines.room(w), |room| {
                let (scales, biases) = params.split_at_mut(size);
                for pair in panels.clone().step_by(PAIR) {
                    for (i, panel) in (pair..panels.end).take(PAIR).enumerate() {
                        panel::params(self.isa, w, panel * LANES, scales, biases);
                        let target = few::Target { sums: &mut sums[i * LANES..], room };
                        // SAFETY: passed on from the caller.
                        unsafe { lines.multiply(w, panel * LANES, &few::Params { scales, biases }, target) };
                    }
                    self.finish(rows, pair * LANES, &mut sums[..rows.len() * PAIR * LANES]);
                }
            });
        });
    }

    /// Some rows against some panels: block of columns by block, so that the rows' part of it is read from a near cache.
    fn span(&self, rows: &Range<usize>, panels: Range<usize>) {
        let w = self.w;
        let (groups, width) = (w.groups(), PAIR * LANES);
        let pairs = panels.len().div_ceil(PAIR);
        with_scratch(&SUMS, pairs * rows.len() * width, |sums| {
            if self.isa < Isa::Amx || w.columns == 0 {
                sums.fill(0.0);
            }
            with_scratch(&PARAMS, 2 * panels.len() * groups * LANES, |params| {
                let (scales, biases) = params.split_at_mut(panels.len() * groups * LANES);
                for (i, panel) in panels.clone().enumerate() {
                    let at = i * groups * LANES..(i + 1) * groups * LANES;
                    panel::params(self.isa, w, panel * LANES, &mut scales[at.clone()], &mut biases[at]);
                }
                for from in (0..w.columns).step_by(BLOCK) {
                    let columns = BLOCK.min(w.columns - from);
                    let plane = columns.next_multiple_of(panel::CHUNK) * LANES;
                    with_scratch(&CODES, panels.len() * plane / 4, |codes| {
                        let codes = bytes_of(codes);
                        for (panel, codes) in panels.clone().zip(codes.chunks_exact_mut(plane)) {
                            panel::codes(self.isa, w, panel * LANES, from, columns, codes);
                        }
                        let tile = Tile {
                            rows: self.rows,
                            first: rows.start,
                            count: rows.len(),
                            panels: panels.len(),
                            from,
                            columns,
                            codes,
                            plane,
                            scales,
                            biases,
                        };
                        tile.add(self.isa, sums);
                    });
                }
            });
            for (pair, sums) in sums.chunks_exact_mut(rows.len() * width).enumerate() {
                self.finish(rows, (panels.start + pair * PAIR) * LANES, sums);
            }
        });
    }

    /// Writes the results of a pair whose first row of weights is `first`.
    fn finish(&self, rows: &Range<usize>, first: usize, sums: &mut [f32]) {
        let outputs = self.w.rows;
        let width = (outputs - first).min(PAIR * LANES);
        for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(PAIR * LANES)) {
            if let (Some(number), false) = (self.numbers[row], self.odd[row]) {
                // SAFETY: a row's part of these columns is written by this task only.
                unsafe { self.out.write(self.isa, (self.place)(number) * outputs + first, &mut sums[..width]) };
            }
        }
    }
}

/// One block of columns of some panels, and the rows of activations that it meets.
struct Tile<'a> {
    rows: &'a Rows<'a>,
    /// The first of the rows, which begins a tile, and how many there are.
    first: usize,
    count: usize,
    panels: usize,
    /// The first column, which begins a group, and how many there are.
    from: usize,
    columns: usize,
    /// `[panel][column / 4][LANES][4]`, the panels `plane` bytes apart.
    codes: &'a [u8],
    plane: usize,
    /// `[panel][group][LANES]` of all groups.
    scales: &'a [f32],
    biases: &'a [f32],
}

impl<'a> Tile<'a> {
    /// Adds the products to the sums, which are `[pair of panels][row][panel][LANES]`. With AMX the first column begins them.
    fn add(&self, isa: Isa, sums: &mut [f32]) {
        let groups = self.rows.groups;
        assert!(isa <= Isa::best() && sums.len() == self.pairs() * self.sums());
        assert!(self.codes.len() >= self.panels * self.plane && self.plane >= self.columns * LANES);
        assert!(self.scales.len() >= self.panels * groups * LANES && self.biases.len() >= self.panels * groups * LANES);
        assert!(self.first.is_multiple_of(rows::ROWS) && self.first + self.count <= self.rows.len);
        assert!(self.from + self.columns <= self.rows.columns);
        // SAFETY: the level and all sizes were checked.
        unsafe {
            if isa == Isa::Amx {
                return amx::add(self, sums);
            }
            for (i, sums) in sums.chunks_exact_mut(self.sums()).enumerate() {
                let (tile, panels) = self.pair(i);
                match isa {
                    Isa::Portable => plain::add(&tile, panels, sums),
                    Isa::Avx2 => avx2::add(&tile, panels, sums),
                    Isa::Avx512 | Isa::Amx => avx512::add(&tile, panels, sums),
                }
            }
        }
    }

    fn pairs(&self) -> usize {
        self.panels.div_ceil(PAIR)
    }

    /// Sums of a pair.
    fn sums(&self) -> usize {
        self.count * PAIR * LANES
    }

    /// A pair, and how many panels it has.
    fn pair(&self, i: usize) -> (Tile<'a>, usize) {
        let (first, params) = (PAIR * i, PAIR * i * self.rows.groups * LANES);
        let panels = PAIR.min(self.panels - first);
        let tile = Tile {
            panels,
            codes: &self.codes[first * self.plane..],
            scales: &self.scales[params..],
            biases: &self.biases[params..],
            ..*self
        };
        (tile, panels)
    }

    fn groups(&self) -> Range<usize> {
        self.from / self.rows.group..(self.from + self.columns) / self.rows.group
    }
}

#[cfg(test)]
mod tests;
