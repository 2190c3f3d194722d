//! Between tokens and heads.

use mlxlm_core::Array;

use crate::Result;

/// The heads of each token, one behind the other along the last axis, as an axis of their own.
///
/// # Shapes
/// - `x`: `[B, L, heads · d]`, result: `[B, heads, L, d]`
pub fn split_heads(x: &Array, heads: i32) -> Result<Array> {
    let (batch, len, dim) = (x.dim(0), x.dim(1), x.dim(2) / heads.max(1));
    if len == 1 {
        // The heads of one token lie so already: one node less in each step's graph.
        return Ok(x.reshape(&[batch, heads, 1, dim])?);
    }
    Ok(x.reshape(&[batch, len, heads, dim])?.transpose_axes(&[0, 2, 1, 3])?)
}

/// The inverse of [`split_heads`].
///
/// # Shapes
/// - `x`: `[B, heads, L, d]`, result: `[B, L, heads · d]`
pub fn merge_heads(x: &Array) -> Result<Array> {
    let (batch, heads, len, dim) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let x = if len == 1 { x.clone() } else { x.transpose_axes(&[0, 2, 1, 3])? };
    Ok(x.reshape(&[batch, len, heads * dim])?)
}
