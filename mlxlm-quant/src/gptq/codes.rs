//! Rounding the columns of a group, and packing codes.

use std::ops::Range;

use mlxlm_core::Array;
use mlxlm_core::kernels::pool;

/// Some neighbouring columns of a matrix, which share a scale in each row.
#[derive(Debug)]
pub(super) struct Group {
    /// `[rows, width]`.
    pub(super) columns: Vec<f32>,
    /// The root of the inverse Hessian at these columns, `[width, width]`: upper triangular.
    pub(super) root: Vec<f32>,
    pub(super) width: usize,
    pub(super) bits: i32,
}

/// The values that codes stand for, `scale · code + bias`, of each row.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    pub(super) scales: Vec<f32>,
    pub(super) biases: Vec<f32>,
}

/// What became of a group.
#[derive(Debug)]
pub(super) struct Rounded {
    /// `[rows, width]`.
    pub(super) codes: Vec<u8>,
    /// What columns after the group have to make up for: `[rows, width]`.
    pub(super) errors: Vec<f32>,
    /// What cannot be made up for any more, of each row.
    pub(super) losses: Vec<f32>,
}

impl Group {
    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.columns.len() / self.width.max(1)
    }

    /// The largest code.
    pub(super) fn most(&self) -> f32 {
        ((1_u32 << self.bits) - 1) as f32
    }

    /// Rounds one column after the other.
    pub(super) fn round(&self, grid: &Grid) -> Rounded {
        let parts = by_rows(self.rows(), |rows| self.round_rows(grid, rows));
        let mut all = Rounded { codes: Vec::new(), errors: Vec::new(), losses: Vec::new() };
        for part in parts {
            all.codes.extend(part.codes);
            all.errors.extend(part.errors);
            all.losses.extend(part.losses);
        }
        all
    }

    fn round_rows(&self, grid: &Grid, rows: Range<usize>) -> Rounded {
        let (width, most) = (self.width, self.most());
        let count = rows.len() * width;
        let (mut codes, mut errors, mut losses) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::new());
        let mut row = vec![0_f32; width];
        for i in rows {
            let (scale, bias) = (grid.scales[i], grid.biases[i]);
            row.copy_from_slice(&self.columns[i * width..(i + 1) * width]);
            let mut loss = 0.0;
            for k in 0..width {
                let root = &self.root[k * width..(k + 1) * width];
                let code = ((row[k] - bias) / scale).round_ties_even().clamp(0.0, most);
                let error = (row[k] - (scale * code + bias)) / root[k];
                for (column, root) in row[k..].iter_mut().zip(&root[k..]) {
                    *column -= error * root;
                }
                loss += error * error;
                codes.push(code as u8);
                errors.push(error);
            }
            losses.push(loss);
        }
        Rounded { codes, errors, losses }
    }
}

/// Does something with ranges of rows on all threads; the results come in the order of the rows.
pub(super) fn by_rows<T: Send>(rows: usize, f: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    const LEAST_ROWS: usize = 64;
    let parts = pool::threads().min(rows / LEAST_ROWS).max(1);
    if parts == 1 {
        return vec![f(0..rows)];
    }
    let f = &f;
    std::thread::scope(|scope| {
        let range = |i: usize| i * rows / parts..(i + 1) * rows / parts;
        let all: Vec<_> = (0..parts).map(|i| scope.spawn(move || f(range(i)))).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// The codes of a matrix, which become bit streams.
pub(super) struct Codes {
    rows: usize,
    bits: usize,
    words: usize,
    packed: Vec<u32>,
}

impl Codes {
    /// No codes yet, of rows of `input`.
    pub(super) fn new(rows: usize, input: usize, bits: i32) -> Self {
        let bits = bits as usize;
        let words = input * bits / 32;
        Self { rows, bits, words, packed: vec![0; rows * words] }
    }

    /// Puts the codes of a group that begins at the column `start`: `[rows, width]`.
    pub(super) fn put(&mut self, start: usize, codes: &[u8]) {
        let width = codes.len() / self.rows.max(1);
        for (row, codes) in self.packed.chunks_exact_mut(self.words.max(1)).zip(codes.chunks_exact(width.max(1))) {
            for (i, &code) in codes.iter().enumerate() {
                let bit = (start + i) * self.bits;
                let (word, shift) = (bit / 32, bit % 32);
                row[word] |= u32::from(code) << shift;
                if shift + self.bits > 32 {
                    row[word + 1] |= u32::from(code) >> (32 - shift);
                }
            }
        }
    }

    /// The packed rows, in this shape.
    pub(super) fn packed(&self, shape: &[i32]) -> Array {
        Array::from_slice(&self.packed, shape)
    }
}

#[cfg(test)]
mod tests {
    use mlxlm_core::ops::indexing::TryIndexOp;
    use mlxlm_core::quant::{self, Mode, Scheme};
    use mlxlm_core::{Dtype, random};

    use super::*;

    /// A root of ones on the diagonal hands no error on: what is left is rounding to the nearest, as MLX does it.
    #[test]
    fn every_width_packs_as_mlx_does() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let scheme = Scheme::new(Mode::Affine, bits, 32).unwrap();
            let weight = random::normal::<f32>(&[5, 64], None, None, &random::key(3).unwrap()).unwrap();
            let root = mlxlm_core::ops::eye::<f32>(64, None, None).unwrap();
            let (got, want) =
                (super::super::pack(&weight, &root, scheme, false).unwrap(), quant::quantize(&weight, scheme).unwrap());
            assert!(got.scales.eq_values(&want.scales).unwrap());
            // MLX rounds half away from zero here, and other than by division: a code may be one off.
            let codes = |weight: Array| {
                let (ones, zeros) = (
                    mlxlm_core::ops::ones_like(&want.scales).unwrap(),
                    mlxlm_core::ops::zeros_like(&want.scales).unwrap(),
                );
                let packed = quant::Packed { weight, scales: ones, biases: Some(zeros) };
                quant::dequantize(&packed, scheme, Some(Dtype::Float32)).unwrap().to_vec_exact::<f32>().unwrap()
            };
            let (got, want) = (codes(got.weight), codes(want.weight.try_index(..).unwrap()));
            let off = got.iter().zip(&want).filter(|(a, b)| a != b).count();
            assert!(off <= 3 && got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1.5), "{bits}: {off}");
        }
    }

    #[test]
    fn ranges_of_rows_come_in_order() {
        let all: Vec<usize> = by_rows(1000, Iterator::collect::<Vec<_>>).concat();
        assert!(all.into_iter().eq(0..1000));
    }
}
