//! The weights of panels as f32, a unit at a time: for products by way of unpacked blocks, as gradients are.

#![allow(
    clippy::inline_always,
    reason = "the body must be compiled inside each level's function to use its instructions"
)]

use std::ops::Range;

use mlx_rs::Dtype;

use super::matrix::float_of;
use super::weights::{e4m3, e8m0};
use crate::kernels::isa::Isa;
use crate::quant::Mode;
use crate::quant::panels::{LANES, Layout, Panel, UNIT, place, planes};

/// A part of a matrix and how it is written: rows of `columns.len()` weights, `width` apart.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) width: usize,
}

/// Writes a part of the matrix in `lines`.
pub(super) fn unpack(isa: Isa, layout: &Layout, lines: &[u32], part: &Part, out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma")]
    fn avx2(layout: &Layout, lines: &[u32], part: &Part, out: &mut [f32]) {
        body(layout, lines, part, out);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(layout: &Layout, lines: &[u32], part: &Part, out: &mut [f32]) {
        body(layout, lines, part, out);
    }
    assert!(isa <= Isa::best());
    match isa {
        Isa::Portable => body(layout, lines, part, out),
        // SAFETY: the level was checked.
        Isa::Avx2 => unsafe { avx2(layout, lines, part, out) },
        // SAFETY: the level was checked.
        Isa::Avx512 | Isa::Amx => unsafe { avx512(layout, lines, part, out) },
    }
}

#[inline(always)]
fn body(layout: &Layout, lines: &[u32], part: &Part, out: &mut [f32]) {
    match layout.bits() {
        2 => of_bits::<2>(layout, lines, part, out),
        3 => of_bits::<3>(layout, lines, part, out),
        4 => of_bits::<4>(layout, lines, part, out),
        5 => of_bits::<5>(layout, lines, part, out),
        6 => of_bits::<6>(layout, lines, part, out),
        _ => of_bits::<8>(layout, lines, part, out),
    }
}

#[inline(always)]
fn of_bits<const BITS: usize>(layout: &Layout, lines: &[u32], part: &Part, out: &mut [f32]) {
    let (rows, columns) = (&part.rows, &part.columns);
    for panel in rows.start / LANES..rows.end.div_ceil(LANES) {
        let in_panel = layout.panel(lines, panel);
        let lanes = rows.start.max(panel * LANES)..rows.end.min((panel + 1) * LANES);
        for number in columns.start / UNIT..columns.end.div_ceil(UNIT) {
            let weights = unit::<BITS>(&in_panel, number);
            let some = columns.start.max(number * UNIT)..columns.end.min((number + 1) * UNIT);
            for row in lanes.clone() {
                let out = &mut out[(row - rows.start) * part.width + some.start - columns.start..][..some.len()];
                for (out, weights) in out.iter_mut().zip(&weights[some.start % UNIT..]) {
                    *out = weights[row % LANES];
                }
            }
        }
    }
}

/// The weights of a unit of a panel. Loops over lanes are what compilers make vectors of.
#[inline(always)]
fn unit<const BITS: usize>(panel: &Panel<'_>, number: usize) -> [[f32; LANES]; UNIT] {
    let layout = &panel.layout;
    let codes = panel.unit(number).as_chunks::<LANES>().0;
    let mut weights = [[0.0; LANES]; UNIT];
    // Codes of 4-bit floats may have two groups in a unit, of which a row may end with the first.
    let group = layout.group().min(UNIT);
    let some = UNIT.min(layout.columns - number * UNIT);
    for (from, weights) in (0..some).step_by(group).zip(weights.chunks_exact_mut(group)) {
        let (scales, biases) = numbers(panel, layout.group_of(number * UNIT + from));
        for (column, weights) in (from..).zip(weights) {
            let mut code = [0; LANES];
            let mut first = 0;
            for plane in planes(BITS) {
                let (line, shift) = place(plane.width, column);
                for (code, word) in code.iter_mut().zip(&codes[first + line]) {
                    *code |= (word >> shift & ((1 << plane.width) - 1)) << plane.from;
                }
                first += plane.width;
            }
            let mut values = [0.0; LANES];
            for (value, code) in values.iter_mut().zip(&code) {
                *value = match layout.scheme.mode {
                    Mode::Affine => *code as i32 as f32,
                    Mode::Mxfp4 | Mode::Nvfp4 => e2m1(*code),
                    Mode::Mxfp8 => e4m3(*code as u8),
                };
            }
            for (lane, weight) in weights.iter_mut().enumerate() {
                *weight = scales[lane] * values[lane] + biases[lane];
            }
        }
    }
    weights
}

/// Scales and biases of a group.
#[inline(always)]
fn numbers(panel: &Panel<'_>, group: usize) -> ([f32; LANES], [f32; LANES]) {
    let layout = &panel.layout;
    let (line, which) = panel.numbers(group);
    let (mut scales, mut biases) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let half = |i: usize| float_of(layout.numbers, line[i / 2] >> (16 * (i % 2)) & 0xFFFF);
        let byte = (line[LANES / 4 * which + lane / 4] >> (8 * (lane % 4))) as u8;
        match (layout.numbers, layout.scheme.mode) {
            (Dtype::Float32, _) => {
                (scales[lane], biases[lane]) = (f32::from_bits(line[lane]), f32::from_bits(line[LANES + lane]));
            }
            (Dtype::Uint8, Mode::Nvfp4) => scales[lane] = e4m3(byte),
            (Dtype::Uint8, _) => scales[lane] = e8m0(byte),
            _ => (scales[lane], biases[lane]) = (half(lane), half(LANES + lane)),
        }
    }
    (scales, biases)
}

/// A 4-bit float: a sign, two bits of exponent and one bit of fraction.
#[inline(always)]
fn e2m1(code: u32) -> f32 {
    let (exponent, fraction) = (code >> 1 & 3, code & 1);
    let halves = if exponent == 0 { fraction } else { (2 + fraction) << (exponent - 1) };
    let magnitude = halves as i32 as f32 * 0.5;
    f32::from_bits(magnitude.to_bits() | code << 28 & 0x8000_0000)
}
