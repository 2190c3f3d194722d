//! The plain version, which all levels agree with bit by bit.

use super::super::matrix::float_of;
use super::super::weights::{code, e4m3, e8m0};
use super::{Block, E2M1, HALF, LANES, WIDTH, ZERO};
use crate::quant::Mode;
use crate::quant::panels::{Band, Layout};

/// See [`Block::multiply`].
pub(super) fn multiply(block: &Block<'_>, band: &Band<'_>, sums: &mut [f32]) {
    let (layout, rows) = (&band.layout, block.rows);
    let (groups, group, bits) = (layout.groups(), layout.group(), layout.bits());
    let mut words = vec![0; layout.columns * bits / 32];
    let mut numbers = vec![[0; 2]; groups];
    for of_band in 0..band.panels * LANES {
        band.panel(of_band / LANES).row(of_band % LANES, &mut words, &mut numbers);
        let codes: Vec<i32> = (0..layout.columns)
            .map(|column| {
                let code = code(&words, bits, column);
                if layout.scheme.mode == Mode::Affine { code as i32 } else { i32::from(E2M1[code as usize]) }
            })
            .collect();
        for row in 0..block.count {
            let total = &mut sums[row * WIDTH + of_band];
            for (g, &of_group) in numbers.iter().enumerate() {
                let zero = if layout.scheme.mode == Mode::Affine { 0 } else { ZERO };
                let [whole, below] = rows.integers[(block.first + row) * groups + g].map(|sum| zero * sum);
                let dot = |plane: &&[u8]| -> i32 {
                    let x = |column: usize| i32::from(plane[rows.at(block.first + row, column)] as i8);
                    (g * group..(g + 1) * group).map(|column| x(column) * codes[column]).sum()
                };
                let (scale, bias) = scale_and_bias(layout, of_group);
                let at = (block.first + row) * groups + g;
                let (step, sum) = (rows.steps[at], rows.sums[at]);
                *total = match rows.planes.iter().map(dot).collect::<Vec<_>>()[..] {
                    [high, low] => {
                        let dot = (256 * high + low - whole) as f32 * step;
                        bias.mul_add(sum, dot.mul_add(scale, *total))
                    }
                    [high, low, third, fourth] => {
                        let high = (256 * high + low - whole) as f32;
                        let low = (256 * third + fourth - below) as f32;
                        let dot = high.mul_add(65536.0, low) * step;
                        *total + dot.mul_add(scale, bias * sum)
                    }
                    _ => unreachable!("activations have two bytes or four"),
                };
            }
        }
    }
}

/// What a group's numbers are for codes as integers.
fn scale_and_bias(layout: &Layout, [scale, bias]: [u32; 2]) -> (f32, f32) {
    let float = match layout.scheme.mode {
        Mode::Affine => return (float_of(layout.numbers, scale), float_of(layout.numbers, bias)),
        Mode::Nvfp4 => e4m3(scale as u8),
        _ => e8m0(scale as u8),
    };
    (HALF * float, 0.0)
}
