//! Activations in fixed point: within each group of columns `x = step · (256 · high + low)`, and two bytes more for those in f32.
//!
//! Bytes lie in a plane each, as the tiles of AMX take them, `[up to 16 rows][64 columns]` one after the other: rows that are a power of two apart
//! would drive each other out of the caches.

use std::cell::Cell;

use crate::kernels::convert::Values;
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::scratch::{Scratch, bytes_of, with_scratch};
use crate::quant::panels::Layout;

/// The bits of 2¹¹², from which on the sum of a group's products with codes could be too large for an f32. Numbers that are not
/// finite are above, too.
const TOO_LARGE: u32 = (112 + 127) << 23;
/// Bytes of an activation that has 16 bits, and of one that has 32.
pub(super) const HALF_PLANES: usize = 2;
pub(super) const FLOAT_PLANES: usize = 4;
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
    /// The high bytes, the low ones, and for f32 the two below: `[row / height][column / 64][row % height][column % 64]`.
    pub(super) planes: &'a [&'a [u8]],
    /// `[row][group]`: powers of two.
    pub(super) steps: &'a [f32],
    /// `[row][group]`: the sum of the activations.
    pub(super) sums: &'a [f32],
    /// `[row][group]`: the sums of the integers, those of `256 · high + low` and those of the same of the bytes below.
    pub(super) integers: &'a [[i32; 2]],
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

/// Calls `body` with rows of `x`, in tiles of `height` and in `P` planes: `chosen` tells for each which one it is, or `None` if nothing reads it; and
/// for each whether it does not fit, as [`fix`] tells.
pub(super) fn with_rows<const P: usize, R>(
    isa: Isa,
    x: &Values<'_>,
    chosen: &[Option<usize>],
    height: usize,
    layout: &Layout,
    tolerance: f32,
    body: impl FnOnce(&Rows<'_>, &[bool]) -> R,
) -> R {
    let (columns, group, groups, len) = (layout.columns, layout.group(), layout.groups(), chosen.len());
    assert!((1..=ROWS).contains(&height) && len.is_multiple_of(height));
    let plane = len * columns.next_multiple_of(COLUMNS);
    with_scratch(&BYTES, P * plane / 4, |bytes| {
        with_scratch(&STEPS, 4 * len * groups, |steps| {
            let bytes = bytes_of(bytes);
            let (steps, sums) = steps.split_at_mut(len * groups);
            let (sums, integers) = sums.split_at_mut(len * groups);
            let integers = pairs_of(integers);
            let mut odd = vec![false; len];
            let to = Shared(bytes.as_mut_ptr());
            let scales = (Shared(steps.as_mut_ptr()), Shared(sums.as_mut_ptr()), Shared(odd.as_mut_ptr()));
            let pairs = Shared(integers.as_mut_ptr());
            let fix_row = |row: usize, source: usize| {
                with_scratch(&WIDE, columns, |wide| {
                    x.read(isa, source * columns, wide);
                    // SAFETY: rows have places of their own in each plane and in the other four.
                    unsafe {
                        let floats =
                            |all: Shared<f32>| std::slice::from_raw_parts_mut(all.get().add(row * groups), groups);
                        let first = place(height, columns, row, 0);
                        let mut fixed = Fixed::<P> {
                            planes: std::array::from_fn(|p| to.get().add(p * plane + first)),
                            stride: height * COLUMNS,
                            steps: floats(scales.0),
                            sums: floats(scales.1),
                            integers: std::slice::from_raw_parts_mut(pairs.get().add(row * groups), groups),
                        };
                        *scales.2.get().add(row) = !fix(isa, wide, group, tolerance, &mut fixed);
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
            let planes: [&[u8]; P] = std::array::from_fn(|p| &bytes[p * plane..][..plane]);
            body(&Rows { len, height, columns, group, groups, planes: &planes, steps, sums, integers }, &odd)
        })
    })
}

/// Where a row goes.
struct Fixed<'a, const P: usize> {
    /// The row's first byte in each plane.
    planes: [*mut u8; P],
    /// Bytes from one run of 64 columns to the next.
    stride: usize,
    steps: &'a mut [f32],
    sums: &'a mut [f32],
    integers: &'a mut [[i32; 2]],
}

/// The values as pairs of integers.
fn pairs_of(floats: &mut [f32]) -> &mut [[i32; 2]] {
    // SAFETY: any bits are an integer, and the alignments are the same.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len() / 2) }
}

/// Fixes a row; `false` if a number is too large or not finite, or if few are so much larger than the others that these would lose
/// more than `tolerance` allows: the squares of all steps against those of the mean magnitudes without the largest of each group.
///
/// # Safety
/// The planes must have room for the row.
unsafe fn fix<const P: usize>(isa: Isa, x: &[f32], group: usize, tolerance: f32, to: &mut Fixed<'_, P>) -> bool {
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const P: usize>(x: &[f32], group: usize, tolerance: f32, to: &mut Fixed<'_, P>) -> bool {
        // SAFETY: passed on from the caller.
        unsafe { body(x, group, tolerance, to) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn avx512<const P: usize>(x: &[f32], group: usize, tolerance: f32, to: &mut Fixed<'_, P>) -> bool {
        // SAFETY: passed on from the caller.
        unsafe { body(x, group, tolerance, to) }
    }
    assert!(isa <= Isa::best());
    // SAFETY: the level was checked, and the room is the caller's.
    unsafe {
        match isa {
            Isa::Portable => body(x, group, tolerance, to),
            Isa::Avx2 => avx2(x, group, tolerance, to),
            Isa::Avx512 | Isa::Amx => avx512(x, group, tolerance, to),
        }
    }
}

/// The one body of all levels, which the compiler makes vectors of.
///
/// # Safety
/// That of [`fix`].
#[inline(always)]
unsafe fn body<const P: usize>(x: &[f32], group: usize, tolerance: f32, to: &mut Fixed<'_, P>) -> bool {
    // The largest numbers have this many bits and a sign. Bytes could hold a bit more, but products of high bytes are to fit 16 bits
    // in pairs.
    let bits = 8 * P as i32 - 2;
    let (mut lost, mut kept) = (0.0, 0.0);
    for (g, x) in x.chunks_exact(group).enumerate() {
        let most = x.iter().fold(0, |most, v| (v.to_bits() & 0x7FFF_FFFF).max(most));
        if most >= TOO_LARGE {
            return false;
        }
        // The largest magnitude is below 2^(exponent + 1). All numbers are multiples of the smallest one.
        let exponent = (most >> 23).max(1) as i32 - 127;
        let up = (bits - 1 - exponent).min(149);
        // Numbers near the smallest need a factor that no f32 holds.
        let factors = [power(up.min(100)), power(up - up.min(100))];
        let (mut totals, mut sizes) = ([[0_i32; RUN]; 2], [0.0; RUN]);
        for (i, x) in x.chunks_exact(RUN).enumerate() {
            let column = g * group + i * RUN;
            let at = column / COLUMNS * to.stride + column % COLUMNS;
            // One loop for each step, over arrays of its own: so compilers make vectors of them.
            let mut fixed = [0; RUN];
            for (fixed, x) in fixed.iter_mut().zip(x) {
                let x = x * factors[0] * factors[1];
                // SAFETY: magnitudes are at most 2³⁰.
                *fixed = if P == HALF_PLANES { round(x) } else { unsafe { x.round_ties_even().to_int_unchecked() } };
            }
            for (size, x) in sizes.iter_mut().zip(x) {
                *size += x.abs();
            }
            // What two bytes hold, from the upper ones on. Those below are cut off so that their own higher byte fits.
            let mut rest = fixed;
            for (pair, totals) in totals.iter_mut().enumerate().take(P / 2) {
                let (mut part, mut high, mut low) = (rest, [0; RUN], [0; RUN]);
                if pair + 1 < P / 2 {
                    for (part, rest) in part.iter_mut().zip(&mut rest) {
                        *part = (*rest + (1 << 15) + (1 << 7)) >> 16;
                        *rest -= *part << 16;
                    }
                }
                for (total, part) in totals.iter_mut().zip(&part) {
                    *total += part;
                }
                for (high, part) in high.iter_mut().zip(&part) {
                    *high = (part + (1 << 7)) >> 8;
                }
                for (low, (high, part)) in low.iter_mut().zip(high.iter().zip(&part)) {
                    *low = part - (high << 8);
                }
                for (plane, bytes) in to.planes[2 * pair..].iter().zip([high, low]) {
                    // SAFETY: the caller vouches for the room.
                    unsafe { plane.add(at).cast::<[u8; RUN]>().write(bytes.map(|part| part as u8)) };
                }
            }
        }
        let step = power(-up);
        to.steps[g] = step;
        to.integers[g] = totals.map(|totals| totals.iter().sum());
        let [total, below] = to.integers[g];
        to.sums[g] = match P {
            HALF_PLANES => total as f32 * step,
            _ => (f64::from(total) * 65536.0 + f64::from(below)) as f32 * step,
        };
        let mean = (sizes.iter().sum::<f32>() - f32::from_bits(most)).max(0.0) / (group - 1) as f32;
        (lost, kept) = (lost + step * step, kept + mean * mean);
    }
    lost <= tolerance * kept || kept == 0.0
}

/// To nearest, ties to even, for magnitudes up to 2²²; one addition instead of two instructions.
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

    /// The bytes, the steps and the sums of a row in groups of 32, or `None` if a number is too large or not finite.
    fn fixed<const P: usize>(isa: Isa, x: &[f32]) -> Option<([Vec<u8>; P], Vec<f32>, Vec<f32>)> {
        let mut planes = [(); P].map(|()| vec![0; 64]);
        let (mut steps, mut sums, mut integers) = (vec![0.0; 2], vec![0.0; 2], [[0; 2]; 2]);
        let rows = planes.each_mut().map(std::vec::Vec::as_mut_ptr);
        let mut to = Fixed { planes: rows, stride: 64, steps: &mut steps, sums: &mut sums, integers: &mut integers };
        // SAFETY: each plane has room for 64 columns.
        unsafe { fix(isa, x, 32, f32::INFINITY, &mut to) }.then_some((planes, steps, sums))
    }

    fn comes_back<const P: usize>(x: &[f32]) {
        let mut first: Option<([Vec<u8>; P], Vec<u32>)> = None;
        for isa in Isa::available() {
            let (planes, steps, sums) = fixed::<P>(isa, x).unwrap();
            for (i, x) in x.iter().enumerate() {
                let number = planes.iter().fold(0, |number, plane| 256 * number + i32::from(plane[i] as i8));
                let (back, step) = (f64::from(steps[i / 32]) * f64::from(number), f64::from(steps[i / 32]));
                assert!((back - f64::from(*x)).abs() <= step / 2.0, "{isa} {i}: {back} is not {x}");
            }
            for (g, sum) in sums.iter().enumerate() {
                let want: f64 = x[32 * g..][..32].iter().map(|v| f64::from(*v)).sum();
                assert!((f64::from(*sum) - want).abs() <= 16.0 * f64::from(steps[g]) + 1e-6 * want.abs());
            }
            let all = (planes, steps.iter().chain(&sums).map(|v| v.to_bits()).collect());
            assert!(first.get_or_insert_with(|| all.clone()) == &all, "{isa}");
        }
    }

    #[test]
    fn a_row_comes_back_and_all_levels_agree() {
        let noise = |i: usize| {
            f32::from_bits((i as u32).wrapping_mul(0x9E37_79B9) & 0x807F_FFFF | ((120 + i as u32 % 7) << 23))
        };
        let rows = [
            (0..64).map(noise).collect::<Vec<_>>(),
            vec![0.0; 64],
            (0..64).map(|i| if i == 7 { f32::from_bits(TOO_LARGE - 1) } else { 1.0 }).collect(),
            (0..64).map(|i| if i == 7 { -f32::from_bits(TOO_LARGE - 1) } else { -1.0 }).collect(),
            // Around the margin.
            (0..64).map(|i| f32::from_bits((1 << 30) - (1 << 17) - 3 + i % 7)).collect(),
            (0..64).map(|i| -f32::from_bits((1 << 30) - (1 << 17) - 3 + i % 7)).collect(),
            (0..64).map(|i| f32::from_bits(i << 16)).collect(),
            (0..64).map(f32::from_bits).collect(),
        ];
        for x in &rows {
            comes_back::<HALF_PLANES>(x);
            comes_back::<FLOAT_PLANES>(x);
        }
    }

    #[test]
    fn what_is_too_large_is_reported() {
        for isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::from_bits(TOO_LARGE)] {
                let mut x = [1.0; 64];
                x[40] = bad;
                assert!(fixed::<HALF_PLANES>(isa, &x).is_none() && fixed::<FLOAT_PLANES>(isa, &x).is_none());
            }
        }
    }
}
