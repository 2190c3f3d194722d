//! The functions of [`super`] in MLX's own operations.

use mlx_rs::error::Exception;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::{Array, ops};

/// See [`super::linear`].
#[track_caller]
pub fn linear(x: &Array, weight: &Array) -> Result<Array, Exception> {
    x.matmul(weight.t())
}

/// See [`super::swiglu`].
#[track_caller]
pub fn swiglu(gate: &Array, up: &Array) -> Result<Array, Exception> {
    gate.multiply(ops::sigmoid(gate)?)?.multiply(up)
}

/// See [`super::rms_norm`].
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    fast::rms_norm(x, weight, eps)
}

/// See [`super::layer_norm`].
#[track_caller]
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    fast::layer_norm(x, weight, bias, eps)
}

/// See [`super::causal_attention`].
#[track_caller]
pub fn causal_attention(q: &Array, k: &Array, v: &Array, scale: f32) -> Result<Array, Exception> {
    fast::scaled_dot_product_attention(q, k, v, scale, Some(ScaledDotProductAttentionMask::Causal), None)
}

/// See [`super::cross_entropy`].
#[track_caller]
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array, Exception> {
    let chosen = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    ops::logsumexp_axis(logits, -1, false)?.subtract(chosen)
}

/// See [`super::logsumexp`].
#[track_caller]
pub fn logsumexp(x: &Array) -> Result<Array, Exception> {
    ops::logsumexp_axis(x, -1, true)
}

/// See [`super::argmax`].
#[track_caller]
pub fn argmax(x: &Array) -> Result<Array, Exception> {
    ops::indexing::argmax_axis(x, -1, false)
}
