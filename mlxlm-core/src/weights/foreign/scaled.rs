//! Matrices of bytes that have a scale beside them under one of its usual names: fp8, int8, and 4-bit floats in plain view.

use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};

use super::bits::floats;
use super::fp8::Float8;
use super::modelopt::Nvfp4;
use super::settings::Settings;
use super::work::{Work, check_type, misshapen, rows_and_columns};
use super::{compressed, mxfp4};
use crate::weights::SmallFloat;
use crate::{Array, Dtype, Result, ops};

/// Unpacks every matrix that has a scale `weight_scale_inv`, `weight_scale` or `scale`, in a leaf or in a stack that has no
/// leaf of its own (`experts.down_proj` and `experts.down_proj_scale_inv`).
pub(super) fn unpack(work: &mut Work, settings: &Settings) -> Result<()> {
    for (name, scale_name) in pairs(work) {
        let (weight, scale) = (work.need(&name, &scale_name)?, work.need(&scale_name, &name)?);
        check_type(&name, &weight, "bytes", |dtype| matches!(dtype, Dtype::Uint8 | Dtype::Int8))?;
        let columns = |array: &Array| array.shape().last().copied().map_or(0, i64::from);
        let group_bytes = columns(&weight).checked_div(columns(&scale)).unwrap_or(0);
        let is_eight_bits = matches!(work.small_float(&name), Some(SmallFloat::E4M3 | SmallFloat::E5M2));
        let is_bytes = scale.dtype() == Dtype::Uint8;
        // A byte holds two floats of four bits: groups of 32 with powers of two, of 16 with floats of eight bits.
        if is_bytes && !is_eight_bits && group_bytes == 16 {
            mxfp4::put(work, &name, &weight, (&scale_name, &scale))?;
        } else if is_bytes && !is_eight_bits && group_bytes == 8 {
            Nvfp4 { name: &name, bytes: &weight, scale_name: &scale_name, scales: &scale, factor: None, columns: None }
                .put(work)?;
        } else if weight.dtype() == Dtype::Int8 {
            compressed::put_int8(work, &name, &weight, (&scale_name, &scale))?;
        } else {
            let kind = work.small_float(&name).unwrap_or(SmallFloat::E4M3);
            Float8 { name: &name, weight: &weight, kind, scale_name: &scale_name, scale: &scale }
                .put(work, settings)?;
        }
        work.forget(&[&scale_name]);
    }
    Ok(())
}

/// The names of matrices and of their scales.
fn pairs(work: &Work) -> Vec<(String, String)> {
    let bytes = |name: &str| work.get(name).is_some_and(|array| matches!(array.dtype(), Dtype::Uint8 | Dtype::Int8));
    let pair = |scale: &String| {
        if let Some(weight) = scale.strip_suffix("_scale_inv") {
            return Some((weight.to_owned(), scale.clone()));
        }
        let stem = scale.strip_suffix("_scale");
        let leaf = scale.strip_suffix(".scale").map(|path| format!("{path}.weight"));
        let stack = stem.and_then(|stem| stem.strip_suffix("_weight"));
        let weight =
            [stem.map(str::to_owned), leaf, stack.map(str::to_owned)].into_iter().flatten().find(|name| bytes(name));
        weight.map(|weight| (weight, scale.clone()))
    };
    work.tensors.keys().filter_map(pair).collect()
}

/// Scales as a grid of blocks that covers a matrix, or each of a stack; blocks at the edges are cut off.
#[derive(Debug)]
pub(super) struct Grid {
    /// `f32 [.., rows of blocks, columns of blocks]`
    pub(super) scale: Array,
    /// Rows and columns of a block.
    pub(super) block: (i32, i32),
}

impl Grid {
    /// The grid that a scale is over a weight.
    ///
    /// # Shapes
    /// - `weight`: `[.., rows, columns]`
    /// - `scale`: one number; one for each index of the leading axes (for each matrix of a stack, for each row); one for each
    ///   column; or one for each block of `[rows, columns]`. `block` is the size of those; without it they are equal parts.
    pub(super) fn new(
        (name, weight): (&str, &Array),
        (scale_name, scale): (&str, &Array),
        block: Option<(i32, i32)>,
    ) -> Result<Self> {
        let wide = scale.as_dtype(Dtype::Float32)?;
        let (rows, columns) = rows_and_columns(name, weight)?;
        let lead = &weight.shape()[..weight.ndim() - 2];
        if let Some(aligned) = broadcast(&wide, weight)? {
            let (down, across) = (aligned.dim(-2), aligned.dim(-1));
            let shape: Vec<i32> = lead.iter().copied().chain([down, across]).collect();
            return Ok(Self { scale: ops::broadcast_to(aligned, &shape)?, block: (rows / down, columns / across) });
        }
        let blocks = in_blocks(&wide, weight)?;
        match *blocks.shape() {
            [ref stack @ .., down, across] if stack == lead && down > 0 && across > 0 => {
                if let Some(block) = block_size((rows, columns), (down, across), block) {
                    return Ok(Self { scale: blocks, block });
                }
            }
            _ => {}
        }
        let of = match block {
            Some((rows, columns)) => format!("one number for each block of {rows} by {columns}"),
            None => "one number for each row or block".into(),
        };
        Err(misshapen(scale_name, scale, format!("{of} of `{name}` {:?}", weight.shape())).into())
    }

    /// `weight * scale` in `f32`.
    pub(super) fn multiply(&self, weight: &Array) -> Result<Array> {
        let (rows, columns) = (weight.dim(-2), weight.dim(-1));
        let (down, across) = (self.scale.dim(-2), self.scale.dim(-1));
        // No block is larger than the matrix.
        let (a, b) = (self.block.0.min(rows), self.block.1.min(columns));
        let (high, wide) = (down * a, across * b);
        let lead = &weight.shape()[..weight.ndim() - 2];
        let with = |last: &[i32]| lead.iter().chain(last).copied().collect::<Vec<_>>();
        let mut whole = weight.clone();
        if (high, wide) != (rows, columns) {
            let mut edges = vec![(0, 0); lead.len()];
            edges.extend([(0, high - rows), (0, wide - columns)]);
            whole = ops::pad(&whole, &edges[..], None, None)?;
        }
        let scale = self.scale.reshape(&with(&[down, 1, across, 1]))?;
        let whole = whole.reshape(&with(&[down, a, across, b]))?.multiply(scale)?.reshape(&with(&[high, wide]))?;
        Ok(whole.try_index((Ellipsis, ..rows, ..columns))?)
    }
}

/// `weight * scale` in `f32`, as [`Grid::new`] reads the scale, without a size of blocks.
pub(super) fn multiply(weight: (&str, &Array), scale: (&str, &Array)) -> Result<Array> {
    Grid::new(weight, scale, None)?.multiply(weight.1)
}

/// The scale with as many axes as the weight, each of one or of the weight's size, if it has such a shape.
fn broadcast(scale: &Array, weight: &Array) -> Result<Option<Array>> {
    let (have, want) = (scale.shape(), weight.shape());
    let meets = |(a, b): (&i32, &i32)| *a == 1 || a == b;
    let ones = || std::iter::repeat_n(1, want.len().saturating_sub(have.len()));
    let shape: Vec<i32> = if scale.size() == 1 {
        vec![1; want.len()]
    } else if have.len() <= want.len() && have.iter().zip(want).all(meets) {
        have.iter().copied().chain(ones()).collect()
    } else if have.len() <= want.len() && have.iter().rev().zip(want.iter().rev()).all(meets) {
        ones().chain(have.iter().copied()).collect()
    } else {
        return Ok(None);
    };
    Ok(Some(scale.reshape(&shape)?))
}

/// The scale as `[.., rows of blocks, columns of blocks]`: modelopt leaves an axis of one behind each, and has one number for
/// each half of a fused stack.
fn in_blocks(scale: &Array, weight: &Array) -> Result<Array> {
    let shape: Vec<i32> = match *scale.shape() {
        [ref lead @ .., rows, 1, columns, 1] if lead.len() + 2 == weight.ndim() => {
            lead.iter().copied().chain([rows, columns]).collect()
        }
        ref shape if shape.len() + 1 == weight.ndim() => shape.iter().copied().chain([1]).collect(),
        _ => return Ok(scale.clone()),
    };
    Ok(scale.reshape(&shape)?)
}

/// The size of a block, if so many blocks cover the matrix: that which is asked for, else equal parts.
fn block_size((rows, columns): (i32, i32), blocks: (i32, i32), asked: Option<(i32, i32)>) -> Option<(i32, i32)> {
    let covers = |size: i32, block: i32, blocks: i32| {
        i64::from(blocks) == (i64::from(size) + i64::from(block) - 1) / i64::from(block)
    };
    match asked {
        Some((a, b)) => (covers(rows, a, blocks.0) && covers(columns, b, blocks.1)).then_some((a, b)),
        None => (rows % blocks.0 == 0 && columns % blocks.1 == 0).then(|| (rows / blocks.0, columns / blocks.1)),
    }
}

/// Whether all numbers of a small array are powers of two.
pub(super) fn are_powers_of_two(array: &Array) -> Result<bool> {
    Ok(floats(array)?.iter().all(|value| value.is_normal() && value.to_bits() & 0x807F_FFFF == 0))
}
