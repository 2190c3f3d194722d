//! Weights of 8-bit floats, with a scale for the tensor, for each row, or for each block of rows and columns.
//!
//! `weight_scale_inv` of `DeepSeek` and Qwen (blocks of 128 by 128 in `f32`, the last ones cut off), `weight_scale` of
//! compressed-tensors, fbgemm and modelopt (a tensor, rows, or blocks), `scale` of `DeepSeek` V4 (powers of two, one byte each):
//! all multiply. The result is bf16, as in the reference (`mlx_lm/models/deepseek_v3.py`), unless blocks of 32 columns have
//! powers of two, which is mxfp8 (`mlx_lm/models/deepseek_v41.py`).

use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};

use super::bits::{repeat, shift_left, shift_right};
use super::scaled::{Grid, are_powers_of_two};
use super::settings::Settings;
use super::work::{Work, rows_and_columns};
use crate::fast::by_kernel;
use crate::quant::{Mode, Packed};
use crate::weights::SmallFloat;
use crate::{Array, Dtype, Result};

/// The block that is meant where the configuration names none.
const USUAL_BLOCK: (i32, i32) = (128, 128);
/// Columns in a group of mxfp8, and rows in the blocks that may become such groups.
const GROUP: i32 = 32;

/// A matrix and its scale.
pub(super) struct Float8<'a> {
    pub(super) name: &'a str,
    pub(super) weight: &'a Array,
    pub(super) kind: SmallFloat,
    pub(super) scale_name: &'a str,
    pub(super) scale: &'a Array,
}

impl Float8<'_> {
    /// Puts the matrix in: as mxfp8 if it is that, else dense.
    pub(super) fn put(self, work: &mut Work, settings: &Settings) -> Result<()> {
        rows_and_columns(self.name, self.weight)?;
        if let Some(packed) = self.as_mxfp8(settings)? {
            work.put_packed(self.name, packed, Mode::Mxfp8.default_scheme());
            return Ok(());
        }
        let scale = match self.scale.dtype() {
            Dtype::Uint8 => powers_of_two(self.scale)?,
            _ => self.scale.clone(),
        };
        let (weight, scale) = ((self.name, self.weight), (self.scale_name, &scale));
        let grid = match settings.block() {
            Some(block) => Grid::new(weight, scale, Some(block)),
            None => Grid::new(weight, scale, Some(USUAL_BLOCK)).or_else(|_| Grid::new(weight, scale, None)),
        };
        work.put_dense(self.name, dense(self.weight, self.kind, &grid?)?);
        Ok(())
    }

    /// The matrix as mxfp8, if each 32 columns have a power of two for a row or for 32 rows.
    fn as_mxfp8(&self, settings: &Settings) -> Result<Option<Packed>> {
        let (rows, columns) = (self.weight.dim(-2), self.weight.dim(-1));
        let [ref lead @ .., down, across] = *self.scale.shape() else { return Ok(None) };
        let of_group =
            columns % GROUP == 0 && across == columns / GROUP && lead.iter().eq(&self.weight.shape()[..lead.len()]);
        let by_row = down == rows;
        if self.kind != SmallFloat::E4M3
            || self.scale.ndim() != self.weight.ndim()
            || !of_group
            || !(by_row || down == (rows - 1) / GROUP + 1)
        {
            return Ok(None);
        }
        let mut scales = match self.scale.dtype() {
            Dtype::Uint8 => self.scale.clone(),
            _ if settings.scales_are_powers() && are_powers_of_two(self.scale)? => exponents(self.scale)?,
            _ => return Ok(None),
        };
        if !by_row {
            scales = repeat(&scales, GROUP, -2)?.try_index((Ellipsis, ..rows, ..))?.contiguous()?;
        }
        Ok(Some(Packed { weight: self.weight.view_dtype(Dtype::Uint32)?, scales, biases: None }))
    }
}

/// Unpacks the matrices that are 8-bit floats without a scale.
pub(super) fn without_scales(work: &mut Work) -> Result<()> {
    for (name, kind) in work.small_floats() {
        if let (SmallFloat::E4M3 | SmallFloat::E5M2, Some(weight)) = (kind, work.get(&name)) {
            let dense = decode(weight, kind)?;
            work.put_dense(&name, dense);
        }
    }
    Ok(())
}

/// The floats times their scales, as bf16.
fn dense(bytes: &Array, kind: SmallFloat, grid: &Grid) -> Result<Array> {
    if kind == SmallFloat::E4M3 {
        by_kernel!(crate::kernels::widen_float8(bytes, &grid.scale, grid.block));
    }
    plain_dense(bytes, kind, grid)
}

/// [`dense`] by MLX's own operations.
fn plain_dense(bytes: &Array, kind: SmallFloat, grid: &Grid) -> Result<Array> {
    Ok(grid.multiply(&decode(bytes, kind)?)?.as_dtype(Dtype::Bfloat16)?)
}

/// The floats as bf16, which is exact.
fn decode(bytes: &Array, kind: SmallFloat) -> Result<Array> {
    if kind != SmallFloat::E5M2 {
        return Ok(bytes.from_fp8(Dtype::Bfloat16)?);
    }
    let eight = Array::from_slice(&[8_u16], &[1]);
    let half = shift_left(&bytes.as_dtype(Dtype::Uint16)?, &eight)?.view_dtype(Dtype::Float16)?;
    Ok(half.as_dtype(Dtype::Bfloat16)?)
}

/// Exponents of eight bits (e8m0) as floats: `2^(byte - 127)`, and NaN for 255.
fn powers_of_two(bytes: &Array) -> Result<Array> {
    let powers: Vec<f32> = (0..=u8::MAX).map(e8m0).collect();
    Ok(Array::from_slice(&powers, &[256]).take_axis(bytes.as_dtype(Dtype::Uint32)?, 0)?)
}

fn e8m0(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The exponents of powers of two, as bytes.
fn exponents(powers: &Array) -> Result<Array> {
    let bits = powers.as_dtype(Dtype::Float32)?.view_dtype(Dtype::Uint32)?;
    Ok(shift_right(&bits, &Array::from_slice(&[23_u32], &[1]))?.as_dtype(Dtype::Uint8)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transforms;

    /// The kernel gives the bits of MLX's own operations, for every code and for blocks that the edges cut.
    #[test]
    fn the_kernel_is_the_plain_version() {
        let codes: Vec<u8> = (0..2 * 70 * 50_u32).map(|i| (i * 7 % 256) as u8).collect();
        let bytes = Array::from_slice(&codes, &[2, 70, 50]);
        for (block, grid) in
            [((32, 32), [2, 3, 2]), ((1, 50), [2, 70, 1]), ((70, 1), [2, 1, 50]), ((128, 128), [2, 1, 1])]
        {
            let count = grid.iter().product::<i32>();
            let scales: Vec<f32> = (0..count).map(|i| 0.3 + i as f32 * 0.7).collect();
            let grid = Grid { scale: Array::from_slice(&scales, &grid), block };
            let (fast, plain) = (dense(&bytes, SmallFloat::E4M3, &grid), plain_dense(&bytes, SmallFloat::E4M3, &grid));
            let bits = [fast.unwrap(), plain.unwrap()].map(|a| a.contiguous().unwrap().view::<u16>().unwrap());
            transforms::eval(&bits).unwrap();
            let [fast, plain] = bits.map(|a| a.to_vec_exact::<u16>().unwrap());
            let differ = (0..fast.len()).filter(|&i| fast[i] != plain[i]).map(|i| (codes[i], fast[i], plain[i]));
            assert_eq!(differ.collect::<Vec<_>>(), [], "{block:?}");
        }
    }
}
