//! The plain version, which all levels agree with bit by bit.

use mlx_rs::Dtype;

use super::super::weights::{code, e4m3, e8m0};
use super::{Block, CENTRE, E2M1, HALF, LANES};
use crate::quant::Mode;
use crate::quant::panels::Layout;

/// See [`Block::by_vectors`].
pub(super) fn multiply(block: &Block<'_>, lines: &[u32], sums: &mut [f32]) {
    let (layout, rows) = (block.layout, block.rows);
    let (groups, group, bits) = (layout.groups(), layout.group(), layout.bits());
    let mut words = vec![0; layout.columns * bits / 32];
    let mut numbers = vec![[0; 2]; groups];
    for lane in 0..lines.len() / layout.panel_words().max(1) * LANES {
        layout.row(lines, lane, 0..layout.columns, &mut words, &mut numbers);
        let codes: Vec<i32> = (0..layout.columns)
            .map(|column| {
                let code = code(&words, bits, column);
                if layout.scheme.mode == Mode::Affine { code as i32 } else { i32::from(E2M1[code as usize]) }
            })
            .collect();
        for row in 0..block.count {
            let mut total = 0.0_f32;
            for (g, &of_group) in numbers.iter().enumerate() {
                let x = |column: usize| {
                    let at = rows.at(block.first + row, column);
                    i32::from(rows.high[at] as i8) * 256 + i32::from(rows.low[at] as i8)
                };
                let dot: i32 = (g * group..(g + 1) * group).map(|column| x(column) * codes[column]).sum();
                let (scale, bias) = scale_and_bias(layout, of_group);
                let at = (block.first + row) * groups + g;
                total = (dot as f32 * rows.steps[at]).mul_add(scale, total);
                total = bias.mul_add(rows.sums[at], total);
            }
            sums[row * block.stride + lane] = total;
        }
    }
}

/// What a group's numbers are for codes as integers.
fn scale_and_bias(layout: &Layout, [scale, bias]: [u16; 2]) -> (f32, f32) {
    let float = match layout.scheme.mode {
        Mode::Affine => {
            let half = |bits: u16| match layout.numbers {
                Dtype::Float16 => half::f16::from_bits(bits).to_f32(),
                _ => half::bf16::from_bits(bits).to_f32(),
            };
            return (half(scale), half(bias));
        }
        Mode::Nvfp4 => e4m3(scale as u8),
        _ => e8m0(scale as u8),
    };
    (HALF * float, CENTRE * float)
}
