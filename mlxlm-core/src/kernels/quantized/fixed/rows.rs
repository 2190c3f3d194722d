//! Activations in fixed point: within each group of columns `x = step · (256 · high + low)`.
//!
//! Bytes lie as the tiles of AMX take them, `[up to 16 rows][64 columns]` one after the other: rows that are a power of two apart
//! would drive each other out of the caches.

use std::cell::Cell;

use crate::kernels::convert::Values;
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, bytes_of, with_scratch};
use crate::quant::panels::Layout;

/// The largest numbers have this many bits and a sign: what two signed bytes hold with room for rounding the lower one.
const BITS: i32 = 14;
/// Rows of a tile at most, and its columns.
pub(super) const ROWS: usize = 16;
pub(super) const COLUMNS: usize = 64;
/// Columns that are fixed at a time, which divide a group.
const RUN: usize = 16;
/// Values that are worth a task.
const STEP: usize = 1 << 14;

thread_local! {
    static BYTES: Scratch = const { Cell::new(Vec::new()) };
    static STEPS: Scratch = const { Cell::new(Vec::new()) };
    static WIDE: Scratch = const { Cell::new(Vec::new()) };
}

/// Rows of activations.
pub(super) struct Rows<'a> {
    /// Room for rows: a multiple of the height.
    pub(super) len: usize,
    /// Rows of a tile.
    pub(super) height: usize,
    pub(super) columns: usize,
    pub(super) group: usize,
    pub(super) groups: usize,
    /// `[row / height][column / 64][row % height][column % 64]`.
    pub(super) high: &'a [u8],
    pub(super) low: &'a [u8],
    /// `[row][group]`: powers of two.
    pub(super) steps: &'a [f32],
    /// `[row][group]`: the sum of the activations.
    pub(super) sums: &'a [f32],
}

impl Rows<'_> {
    /// Where the byte of a row and a column lies.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, column: usize) -> usize {
        self.line(row).at(column)
    }

    /// The bytes of a row; to be asked for once, as it takes divisions.
    #[inline(always)]
    pub(super) fn line(&self, row: usize) -> Line {
        Line { first: place(self.height, self.columns, row, 0), stride: self.height * COLUMNS }
    }
}

/// Where the bytes of a row lie. Those of the next rows of its tile are [`COLUMNS`] apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    first: usize,
    stride: usize,
}

impl Line {
    #[inline(always)]
    pub(super) fn at(self, column: usize) -> usize {
        self.first + column / COLUMNS * self.stride + column % COLUMNS
    }
}

#[inline(always)]
fn place(height: usize, columns: usize, row: usize, column: usize) -> usize {
    let (tiles, tile) = (columns.div_ceil(COLUMNS), column / COLUMNS);
    ((row / height * tiles + tile) * height + row % height) * COLUMNS + column % COLUMNS
}

/// Calls `body` with rows of `x`, in tiles of `height`: `chosen` tells for each which one it is, or `None` if nothing reads it; and
/// for each whether it holds a number that is not finite.
pub(super) fn with_rows<R>(
    isa: Isa,
    x: &Values<'_>,
    chosen: &[Option<usize>],
    height: usize,
    layout: &Layout,
    body: impl FnOnce(&Rows<'_>, &[bool]) -> R,
) -> R {
    let (columns, group, groups, len) = (layout.columns, layout.group(), layout.groups(), chosen.len());
    assert!((1..=ROWS).contains(&height) && len.is_multiple_of(height));
    let plane = len * columns.next_multiple_of(COLUMNS);
    with_scratch(&BYTES, 2 * plane / 4, |bytes| {
        with_scratch(&STEPS, 2 * len * groups, |steps| {
            let (high, low) = bytes_of(bytes).split_at_mut(plane);
            let (steps, sums) = steps.split_at_mut(len * groups);
            let mut odd = vec![false; len];
            let to = (Shared(high.as_mut_ptr()), Shared(low.as_mut_ptr()));
            let scales = (Shared(steps.as_mut_ptr()), Shared(sums.as_mut_ptr()), Shared(odd.as_mut_ptr()));
            let fix_row = |row: usize, source: usize| {
                with_scratch(&WIDE, columns, |wide| {
                    x.read(isa, source * columns, wide);
                    // SAFETY: rows have places of their own in all five.
                    unsafe {
                        let floats =
                            |all: Shared<f32>| std::slice::from_raw_parts_mut(all.get().add(row * groups), groups);
                        let first = place(height, columns, row, 0);
                        let len = (columns.div_ceil(COLUMNS) - 1) * height * COLUMNS + COLUMNS;
                        let bytes = |all: Shared<u8>| std::slice::from_raw_parts_mut(all.get().add(first), len);
                        let mut fixed = Fixed {
                            high: bytes(to.0),
                            low: bytes(to.1),
                            stride: height * COLUMNS,
                            steps: floats(scales.0),
                            sums: floats(scales.1),
                        };
                        *scales.2.get().add(row) = !fix(isa, wide, group, &mut fixed);
                    }
                });
            };
            let real = chosen.iter().flatten().count();
            pool::parallel_ranges(len, 1, (real * columns).div_ceil(STEP), |from, end| {
                for (row, source) in (from..end).zip(&chosen[from..end]) {
                    if let Some(source) = source {
                        fix_row(row, *source);
                    }
                }
            });
            body(&Rows { len, height, columns, group, groups, high, low, steps, sums }, &odd)
        })
    })
}

/// Where a row goes.
struct Fixed<'a> {
    /// From the row's first byte to its last.
    high: &'a mut [u8],
    low: &'a mut [u8],
    /// Bytes from one run of 64 columns to the next.
    stride: usize,
    steps: &'a mut [f32],
    sums: &'a mut [f32],
}

/// Fixes a row; `false` if a number is not finite.
fn fix(isa: Isa, x: &[f32], group: usize, to: &mut Fixed<'_>) -> bool {
    #[target_feature(enable = "avx2,fma")]
    fn avx2(x: &[f32], group: usize, to: &mut Fixed<'_>) -> bool {
        body(x, group, to)
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(x: &[f32], group: usize, to: &mut Fixed<'_>) -> bool {
        body(x, group, to)
    }
    assert!(isa <= Isa::best());
    match isa {
        Isa::Portable => body(x, group, to),
        // SAFETY: the level was checked.
        Isa::Avx2 => unsafe { avx2(x, group, to) },
        // SAFETY: the level was checked.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(x, group, to) },
    }
}

/// The one body of all levels, which the compiler makes vectors of.
#[inline(always)]
fn body(x: &[f32], group: usize, to: &mut Fixed<'_>) -> bool {
    for (g, x) in x.chunks_exact(group).enumerate() {
        let most = x.iter().fold(0, |most, v| (v.to_bits() & 0x7FFF_FFFF).max(most));
        if most >= f32::INFINITY.to_bits() {
            return false;
        }
        // The largest magnitude is below 2^(exponent + 1).
        let exponent = (most >> 23).max(1) as i32 - 127;
        let up = BITS - 1 - exponent;
        // Numbers near the smallest need a factor that no f32 holds.
        let factors = [power(up.min(100)), power(up - up.min(100))];
        let mut totals = [0_i32; RUN];
        for (i, x) in x.chunks_exact(RUN).enumerate() {
            let column = g * group + i * RUN;
            let at = column / COLUMNS * to.stride + column % COLUMNS;
            // One loop for each step, over arrays of its own: so compilers make vectors of them.
            let (mut fixed, mut rounded, mut rest) = ([0; RUN], [0; RUN], [0; RUN]);
            for (fixed, x) in fixed.iter_mut().zip(x) {
                *fixed = round(x * factors[0] * factors[1]);
            }
            for (total, fixed) in totals.iter_mut().zip(&fixed) {
                *total += fixed;
            }
            for (rounded, fixed) in rounded.iter_mut().zip(&fixed) {
                *rounded = (fixed + 128) >> 8;
            }
            for (rest, (rounded, fixed)) in rest.iter_mut().zip(rounded.iter().zip(&fixed)) {
                *rest = fixed - (rounded << 8);
            }
            to.high[at..][..RUN].copy_from_slice(&rounded.map(|part| part as u8));
            to.low[at..][..RUN].copy_from_slice(&rest.map(|part| part as u8));
        }
        let step = power(-up);
        to.steps[g] = step;
        to.sums[g] = totals.iter().sum::<i32>() as f32 * step;
    }
    true
}

/// To nearest, ties to even, for magnitudes below 2²².
#[inline(always)]
fn round(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32
}

/// A power of two, from the smallest subnormal number on.
#[inline(always)]
fn power(exponent: i32) -> f32 {
    if exponent >= -126 {
        f32::from_bits(((exponent + 127) as u32) << 23)
    } else {
        f32::from_bits(1 << (exponent + 149))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_and_all_levels_agree() {
        let noise = |i: usize| {
            f32::from_bits((i as u32).wrapping_mul(0x9E37_79B9) & 0x807F_0000 | ((120 + i as u32 % 7) << 23))
        };
        let rows = [
            (0..64).map(noise).collect::<Vec<_>>(),
            vec![0.0; 64],
            (0..64).map(|i| if i == 7 { f32::from_bits(0x7F7F_0000) } else { 1.0 }).collect(),
            (0..64).map(|i| f32::from_bits(i << 16)).collect(),
        ];
        for x in &rows {
            let mut first: Option<(Vec<u8>, Vec<u8>, Vec<u32>)> = None;
            for isa in Isa::available() {
                let (mut high, mut low, mut steps, mut sums) = (vec![0; 64], vec![0; 64], vec![0.0; 2], vec![0.0; 2]);
                let mut to = Fixed { high: &mut high, low: &mut low, stride: 64, steps: &mut steps, sums: &mut sums };
                assert!(fix(isa, x, 32, &mut to));
                for (i, (h, l)) in high.iter().zip(&low).enumerate() {
                    let back = f64::from(steps[i / 32]) * f64::from(i32::from(*h as i8) * 256 + i32::from(*l as i8));
                    let error = (back - f64::from(x[i])).abs();
                    assert!(error <= f64::from(steps[i / 32]) / 2.0, "{isa} {i}: {back} is not {}", x[i]);
                }
                for (g, sum) in sums.iter().enumerate() {
                    let want: f64 = x[32 * g..][..32].iter().map(|v| f64::from(*v)).sum();
                    assert!((f64::from(*sum) - want).abs() <= 16.0 * f64::from(steps[g]) + 1e-6 * want.abs());
                }
                let bits = steps.iter().chain(&sums).map(|v| v.to_bits()).collect();
                let all = (high, low, bits);
                assert!(first.get_or_insert_with(|| all.clone()) == &all, "{isa}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_told() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = [1.0; 64];
                x[40] = bad;
                let (mut high, mut low, mut steps, mut sums) = ([0; 64], [0; 64], [0.0; 2], [0.0; 2]);
                let mut to = Fixed { high: &mut high, low: &mut low, stride: 64, steps: &mut steps, sums: &mut sums };
                assert!(!fix(isa, &x, 32, &mut to));
            }
        }
    }
}
