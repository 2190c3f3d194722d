//! Scalars that keep the type of the array they meet, as Python's weakly typed numbers do: bf16 logits stay bf16.

use mlxlm_core::{Array, Dtype, Exception};

/// `value` in the type of `like`.
pub(crate) fn scalar_like(value: f64, like: &Array) -> Result<Array, Exception> {
    Array::from_f32(value as f32).as_dtype(like.dtype())
}

/// The largest finite number of a type of logits.
pub(crate) fn largest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float16 => 65504.0,
        // All but the lowest bit of eight in front of the exponent of f32.
        Dtype::Bfloat16 => f64::from(f32::from_bits(0x7F7F_0000)),
        _ => f64::from(f32::MAX),
    }
}

/// `value`, moved to the nearest number that is neither 0 nor infinite in the type of `like`, if it is not 0 itself: a penalty
/// stays a penalty, and never makes a logit that is no number.
pub(crate) fn finite_like(value: f64, like: &Array) -> Result<Array, Exception> {
    // The smallest number of f16 that has all its bits; both other types have smaller ones.
    let (least, most) = (if like.dtype() == Dtype::Float16 { 6.2e-5 } else { 1.2e-38 }, largest(like.dtype()));
    let size = if value == 0.0 { 0.0 } else { value.abs().clamp(least, most) };
    scalar_like(size.copysign(value), like)
}

/// Minus infinity in the type of `like`: the log-probability of what cannot be drawn.
pub(crate) fn never(like: &Array) -> Result<Array, Exception> {
    scalar_like(f64::NEG_INFINITY, like)
}

/// The length of the last axis, which is the vocabulary; 0 for a scalar.
pub(crate) fn vocab_size(logits: &Array) -> i32 {
    logits.shape().last().copied().unwrap_or(0)
}
