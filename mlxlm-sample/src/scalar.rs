//! Scalars that keep the type of the array they meet, as Python's weakly typed numbers do: bf16 logits stay bf16.

use mlxlm_core::{Array, Exception};

/// `value` in the type of `like`.
pub(crate) fn scalar_like(value: f64, like: &Array) -> Result<Array, Exception> {
    Array::from_f32(value as f32).as_dtype(like.dtype())
}

/// Minus infinity in the type of `like`: the log-probability of what cannot be drawn.
pub(crate) fn never(like: &Array) -> Result<Array, Exception> {
    scalar_like(f64::NEG_INFINITY, like)
}

/// The length of the last axis, which is the vocabulary; 0 for a scalar.
pub(crate) fn vocab_size(logits: &Array) -> i32 {
    logits.shape().last().copied().unwrap_or(0)
}
