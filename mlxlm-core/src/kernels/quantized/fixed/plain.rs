//! The plain version, which all levels agree with bit by bit.

use super::{LANES, PAIR, Tile};

/// See [`Tile::add`].
pub(super) fn add(tile: &Tile<'_>, panels: usize, sums: &mut [f32]) {
    let rows = tile.rows;
    for (row, sums) in (tile.first..).zip(sums.chunks_exact_mut(PAIR * LANES)) {
        for group in tile.groups() {
            let x: Vec<i32> = (group * rows.group..(group + 1) * rows.group)
                .map(|column| {
                    let at = rows.at(row, column);
                    i32::from(rows.high[at] as i8) * 256 + i32::from(rows.low[at] as i8)
                })
                .collect();
            let (step, sum) = (rows.steps[row * rows.groups + group], rows.sums[row * rows.groups + group]);
            for panel in 0..panels {
                let codes = &tile.codes[panel * tile.plane + (group * rows.group - tile.from) * LANES..];
                let mut dots = [0_i32; LANES];
                for (x, codes) in x.chunks_exact(4).zip(codes.chunks_exact(4 * LANES)) {
                    for (dot, codes) in dots.iter_mut().zip(codes.chunks_exact(4)) {
                        *dot += x.iter().zip(codes).map(|(x, code)| x * i32::from(*code)).sum::<i32>();
                    }
                }
                let at = (panel * rows.groups + group) * LANES;
                for (lane, dot) in dots.into_iter().enumerate() {
                    let total = &mut sums[panel * LANES + lane];
                    *total = (dot as f32 * step).mul_add(tile.scales[at + lane], *total);
                    *total = tile.biases[at + lane].mul_add(sum, *total);
                }
            }
        }
    }
}
