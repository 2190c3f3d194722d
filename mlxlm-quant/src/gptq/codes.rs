//! Rounding the columns of a group, and packing codes.

use mlxlm_core::Array;

/// Some neighbouring columns of a matrix, which share a scale in each row.
pub(super) struct Group {
    /// `[rows, width]`.
    pub(super) columns: Vec<f32>,
    /// Of each row.
    pub(super) scales: Vec<f32>,
    /// Of each row.
    pub(super) biases: Vec<f32>,
    /// The root of the inverse Hessian at these columns, `[width, width]`.
    pub(super) root: Vec<f32>,
    pub(super) width: usize,
    pub(super) bits: i32,
}

/// What became of a group.
pub(super) struct Rounded {
    /// `[rows, width]`.
    pub(super) codes: Vec<u8>,
    /// What columns after the group have to make up for: `[rows, width]`.
    pub(super) errors: Vec<f32>,
}

impl Group {
    /// Rounds one column after the other.
    pub(super) fn round(mut self) -> Rounded {
        let most = ((1_u32 << self.bits) - 1) as f32;
        let (mut codes, mut errors) = (vec![0_u8; self.columns.len()], vec![0_f32; self.columns.len()]);
        let rows = self.columns.chunks_exact_mut(self.width);
        let made = codes.chunks_exact_mut(self.width).zip(errors.chunks_exact_mut(self.width));
        for ((row, (codes, errors)), (scale, bias)) in rows.zip(made).zip(self.scales.iter().zip(&self.biases)) {
            for k in 0..self.width {
                let root = &self.root[k * self.width..(k + 1) * self.width];
                let code = ((row[k] - bias) / scale).round_ties_even().clamp(0.0, most);
                let error = (row[k] - (scale * code + bias)) / root[k];
                for (column, root) in row[k..].iter_mut().zip(&root[k..]) {
                    *column -= error * root;
                }
                (codes[k], errors[k]) = (code as u8, error);
            }
        }
        Rounded { codes, errors }
    }
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
                (super::super::pack(&weight, &root, scheme).unwrap(), quant::quantize(&weight, scheme).unwrap());
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
}
