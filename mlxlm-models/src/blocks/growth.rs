//! Queries that grow with their position, so that attention stays as sharp over long texts (Llama 4, Ministral 3).

use mlxlm_cache::Offset;
use mlxlm_core::{Array, Dtype, ops};

use crate::Result;

/// Queries times `1 + beta · ln(1 + ⌊position / original⌋)`, as of positions from the `original` length of the training on.
///
/// Positions of padding, which lie before the first token, count as zero.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, and the same comes back
pub fn grown(q: &Array, offset: &Offset, beta: f32, original: f32) -> Result<Array> {
    let len = q.dim(-2);
    let factors = match offset {
        Offset::Same(offset) => {
            let factor = |i: i32| 1.0 + beta * (offset.saturating_add(i) as f32 / original).floor().max(0.0).ln_1p();
            Array::from_slice(&(0..len).map(factor).collect::<Vec<_>>(), &[len, 1])
        }
        Offset::Rows(offsets) => {
            let steps = Array::from_slice(&(0..len).collect::<Vec<_>>(), &[1, 1, len, 1]);
            growth(&offsets.reshape(&[-1, 1, 1, 1])?.add(steps)?, beta, original)?
        }
        Offset::Tokens(places) => growth(&places.expand_dims_axes(&[1, 3])?, beta, original)?,
    };
    Ok(q.multiply(factors.as_dtype(q.dtype())?)?)
}

/// The factor at each of these positions.
fn growth(positions: &Array, beta: f32, original: f32) -> Result<Array> {
    let stretches = ops::floor(&positions.as_dtype(Dtype::Float32)?.divide(Array::from_f32(original))?)?;
    let stretches = ops::maximum(&stretches, Array::from_f32(0.0))?;
    Ok(ops::log1p(&stretches)?.multiply(Array::from_f32(beta))?.add(Array::from_f32(1.0))?)
}
