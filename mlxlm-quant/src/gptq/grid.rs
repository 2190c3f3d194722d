//! The scales and biases of a group. From the least weight to the largest, as MLX takes them, is rarely the best that few bits can
//! do: rarer values at both ends are worth less than a finer grid between them.
//!
//! What is compared is what rounding the whole group leaves that no later column makes up for. A grid is narrowed, and then fitted by
//! least squares to the codes that it led to, as long as that helps.

use mlxlm_core::{Array, Dtype};

use super::codes::{Grid, Group, Rounded, by_rows};
use crate::Result;

/// How much narrower than the range of a row its grid may be, in steps of [`STEP`].
const NARROWER: u16 = 12;

/// What each step takes away of it.
const STEP: f32 = 0.05;

/// How often a grid is fitted to its codes.
const FITS: usize = 3;

/// The best grid that is found from `first`, in numbers of the type `dtype`, and what rounding to it makes.
pub(super) fn search(group: &Group, first: Grid, dtype: Dtype) -> Result<(Grid, Rounded)> {
    let first = kept_as(first, dtype)?;
    let mut best = Best { rounded: group.round(&first), grid: first, width: group.width };
    let narrow = kept_as(narrowed(group), dtype)?;
    best.compare(group, narrow);
    for _ in 0..FITS {
        let fitted = kept_as(fitted(group, &best), dtype)?;
        if best.compare(group, fitted) == 0 {
            break;
        }
    }
    Ok((best.grid, best.rounded))
}

/// The best so far, of each row by itself.
struct Best {
    grid: Grid,
    rounded: Rounded,
    width: usize,
}

impl Best {
    /// Takes the rows that another grid makes better; how many.
    fn compare(&mut self, group: &Group, grid: Grid) -> usize {
        let other = group.round(&grid);
        let mut taken = 0;
        for i in 0..other.losses.len() {
            if other.losses[i] < self.rounded.losses[i] {
                let columns = i * self.width..(i + 1) * self.width;
                self.rounded.codes[columns.clone()].copy_from_slice(&other.codes[columns.clone()]);
                self.rounded.errors[columns.clone()].copy_from_slice(&other.errors[columns]);
                self.rounded.losses[i] = other.losses[i];
                (self.grid.scales[i], self.grid.biases[i]) = (grid.scales[i], grid.biases[i]);
                taken += 1;
            }
        }
        taken
    }
}

/// The grid as it is stored.
fn kept_as(grid: Grid, dtype: Dtype) -> Result<Grid> {
    if dtype == Dtype::Float32 {
        return Ok(grid);
    }
    let kept = |values: &[f32]| -> Result<Vec<f32>> {
        let array = Array::from_slice(values, &[values.len() as i32]);
        Ok(array.as_dtype(dtype)?.as_dtype(Dtype::Float32)?.to_vec_exact()?)
    };
    Ok(Grid { scales: kept(&grid.scales)?, biases: kept(&grid.biases)? })
}

/// The narrower grid that is best for each row, if no column made up for another.
fn narrowed(group: &Group) -> Grid {
    let (width, most) = (group.width, group.most());
    let worth: Vec<f32> = (0..width).map(|k| group.root[k * (width + 1)].powi(-2)).collect();
    let parts = by_rows(group.rows(), |rows| {
        let of_row = |row: &[f32]| {
            let (low, high) = row.iter().fold((0_f32, 0_f32), |(low, high), &w| (low.min(w), high.max(w)));
            let mut best = (f32::INFINITY, 1.0, 0.0);
            for step in 0..=NARROWER {
                let share = 1.0 - STEP * f32::from(step);
                let (scale, bias) = (((high - low) * share / most).max(f32::MIN_POSITIVE), low * share);
                let inverse = scale.recip();
                let loss = row.iter().zip(&worth).fold(0.0, |sum, (&w, worth)| {
                    let code = ((w - bias) * inverse).round_ties_even().clamp(0.0, most);
                    let off = w - (scale * code + bias);
                    sum + off * off * worth
                });
                if loss < best.0 {
                    best = (loss, scale, bias);
                }
            }
            (best.1, best.2)
        };
        let rows = group.columns[rows.start * width..rows.end * width].chunks_exact(width);
        rows.map(of_row).collect::<Vec<_>>()
    });
    let (scales, biases) = parts.into_iter().flatten().unzip();
    Grid { scales, biases }
}

/// For the codes of each row, the grid that leaves the least: a regression of the columns on codes and ones, both seen through the
/// inverse of the root.
fn fitted(group: &Group, best: &Best) -> Grid {
    let width = group.width;
    let inverse = inverse_of_upper(&group.root, width);
    let through = |row: &dyn Fn(usize) -> f32, seen: &mut [f32]| {
        seen.fill(0.0);
        for k in 0..width {
            let value = row(k);
            for (seen, inverse) in seen[k..].iter_mut().zip(&inverse[k * width + k..(k + 1) * width]) {
                *seen += value * inverse;
            }
        }
    };
    let mut ones = vec![0_f32; width];
    through(&|_| 1.0, &mut ones);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let one_one = dot(&ones, &ones);
    let parts = by_rows(group.rows(), |rows| {
        let (mut codes, mut columns) = (vec![0_f32; width], vec![0_f32; width]);
        let mut grid = Vec::with_capacity(rows.len());
        for i in rows {
            let at = i * width;
            through(&|k| f32::from(best.rounded.codes[at + k]), &mut codes);
            through(&|k| group.columns[at + k], &mut columns);
            let (code_code, code_one) = (dot(&codes, &codes), dot(&codes, &ones));
            let (code_w, one_w) = (dot(&codes, &columns), dot(&ones, &columns));
            let determinant = code_code * one_one - code_one * code_one;
            let scale = (code_w * one_one - one_w * code_one) / determinant;
            let bias = (one_w * code_code - code_w * code_one) / determinant;
            // Codes that are all the same say nothing of a scale.
            let sound = determinant > 1e-9 * code_code * one_one && scale.is_finite() && scale.abs() > 1e-12;
            let old = (best.grid.scales[i], best.grid.biases[i]);
            grid.push(if sound { (scale as f32, bias as f32) } else { old });
        }
        grid
    });
    let (scales, biases) = parts.into_iter().flatten().unzip();
    Grid { scales, biases }
}

/// The inverse of an upper triangular matrix, by rows.
fn inverse_of_upper(root: &[f32], width: usize) -> Vec<f32> {
    let mut inverse = vec![0_f32; width * width];
    for column in 0..width {
        for row in (0..=column).rev() {
            let above: f64 = (row + 1..=column)
                .map(|k| f64::from(root[row * width + k]) * f64::from(inverse[k * width + column]))
                .sum();
            let own = if row == column { 1.0 } else { 0.0 };
            inverse[row * width + column] = ((own - above) / f64::from(root[row * width + row])) as f32;
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use mlxlm_core::random;

    use super::*;

    fn normal(count: usize, seed: u64) -> Vec<f32> {
        let key = random::key(seed).unwrap();
        random::normal::<f32>(&[count as i32], None, None, &key).unwrap().to_vec_exact().unwrap()
    }

    /// 64 columns that depend on each other, of 96 rows with one outlier each.
    fn group(bits: i32) -> Group {
        let (width, rows) = (64, 96);
        let mut root = normal(width * width, 1);
        for row in 0..width {
            for column in 0..width {
                let at = row * width + column;
                root[at] = if column < row { 0.0 } else { 0.05 * root[at] + if column == row { 1.0 } else { 0.0 } };
            }
        }
        let mut columns = normal(rows * width, 2);
        columns.iter_mut().step_by(width + 1).for_each(|w| *w *= 4.0);
        Group { columns, root, width, bits }
    }

    /// From the least to the largest.
    fn whole_range(group: &Group) -> Grid {
        let ends = |row: &[f32]| row.iter().fold((0_f32, 0_f32), |(low, high), &w| (low.min(w), high.max(w)));
        let rows = group.columns.chunks_exact(group.width).map(ends);
        let (scales, biases) = rows.map(|(low, high)| ((high - low) / group.most(), low)).unzip();
        Grid { scales, biases }
    }

    #[test]
    fn no_row_gets_worse_and_all_together_much_better() {
        let group = group(3);
        let before = group.round(&whole_range(&group)).losses;
        let (grid, found) = search(&group, whole_range(&group), Dtype::Float32).unwrap();
        assert!(before.iter().zip(&found.losses).all(|(before, now)| now <= before));
        let sum = |losses: &[f32]| losses.iter().sum::<f32>();
        assert!(sum(&found.losses) < 0.8 * sum(&before), "{} of {}", sum(&found.losses), sum(&before));
        // What is handed out belongs together.
        let again = group.round(&grid);
        assert!(again.codes == found.codes && again.losses == found.losses);
    }

    #[test]
    fn grids_are_numbers_of_the_type_that_is_stored() {
        let group = group(3);
        let (grid, _) =
            search(&group, kept_as(whole_range(&group), Dtype::Bfloat16).unwrap(), Dtype::Bfloat16).unwrap();
        assert!(grid.scales.iter().chain(&grid.biases).all(|value| value.to_bits().trailing_zeros() >= 16));
    }

    /// For given codes no other grid leaves less.
    #[test]
    fn a_fit_is_a_minimum() {
        let group = group(4);
        let grid = whole_range(&group);
        let best = Best { rounded: group.round(&grid), grid, width: group.width };
        let fit = fitted(&group, &best);
        let inverse = inverse_of_upper(&group.root, group.width);
        let left = |scale: f32, bias: f32, row: usize| -> f64 {
            let at = row * group.width;
            let off: Vec<f64> = (0..group.width)
                .map(|k| f64::from(group.columns[at + k] - (scale * f32::from(best.rounded.codes[at + k]) + bias)))
                .collect();
            let seen = (0..group.width)
                .map(|j| (0..=j).map(|k| off[k] * f64::from(inverse[k * group.width + j])).sum::<f64>());
            seen.map(|value| value * value).sum()
        };
        for row in [0, 17, 95] {
            let (scale, bias) = (fit.scales[row], fit.biases[row]);
            let least = left(scale, bias, row);
            for (more_scale, more_bias) in [(0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)] {
                assert!(left(scale + more_scale, bias + more_bias, row) > least, "{row}");
            }
        }
    }
}
