//! The functions of [`super`] in MLX's own operations.

use mlx_rs::error::Exception;
use mlx_rs::fast;
use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};
use mlx_rs::{Array, Dtype, array, ops, random};

mod activation;
mod attention;
mod conv;
mod recurrent;
mod rows;

pub use activation::{activate, gated};
pub(crate) use attention::attend_by_hand;
pub use attention::{attend, attend_latent, seen};
pub use conv::short_conv;
pub use recurrent::{decay_attention, gated_delta, selective_scan, ssm_scan, wkv7};
pub use rows::{attend_latent_rows, attend_rows, write_rows};

/// See [`super::linear()`].
#[track_caller]
pub fn linear(x: &Array, weight: &Array) -> Result<Array, Exception> {
    x.matmul(weight.t())
}

/// See [`super::linear_biased`].
#[track_caller]
pub fn linear_biased(x: &Array, weight: &Array, bias: &Array) -> Result<Array, Exception> {
    ops::addmm(bias, x, weight.t(), None, None)
}

/// See [`super::gather_linear`].
#[track_caller]
pub fn gather_linear(x: &Array, weight: &Array, indices: &Array, sorted: bool) -> Result<Array, Exception> {
    ops::gather_mm(x, weight.swap_axes(-1, -2)?, None, indices, sorted)
}

/// A number in the type of an array, which it does not widen.
fn like(value: f32, array: &Array) -> Result<Array, Exception> {
    Array::from_f32(value).as_dtype(array.dtype())
}

/// See [`super::rms_norm`].
#[track_caller]
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    fast::rms_norm(x, weight, eps)
}

/// See [`super::add_rms_norm`].
#[track_caller]
pub fn add_rms_norm(x: &Array, y: &Array, weight: Option<&Array>, eps: f32) -> Result<[Array; 2], Exception> {
    let sum = x.add(y)?;
    let normed = rms_norm(&sum, weight, eps)?;
    Ok([sum, normed])
}

/// See [`super::layer_norm`].
#[track_caller]
pub fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array, Exception> {
    fast::layer_norm(x, weight, bias, eps)
}

/// See [`super::hadamard()`].
#[track_caller]
pub fn hadamard(x: &Array, block: i32) -> Result<Array, Exception> {
    let blocks = x.as_dtype(Dtype::Float32)?.reshape(&[-1, block])?;
    blocks.hadamard_transform(1.0 / (block as f32).sqrt())?.reshape(x.shape())?.as_dtype(x.dtype())
}

/// See [`super::softmax()`].
#[track_caller]
pub fn softmax(x: &Array, axis: i32) -> Result<Array, Exception> {
    ops::softmax_axis(x, axis, true)
}

/// See [`super::cross_entropy`].
#[track_caller]
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array, Exception> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let chosen = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    ops::logsumexp_axis(&logits, -1, false)?.subtract(chosen)
}

/// See [`super::divergence`].
#[track_caller]
pub fn divergence(student: &Array, teacher: &Array) -> Result<Array, Exception> {
    let normed = |logits: &Array| logits.subtract(logsumexp(logits)?);
    let [student, teacher] = [student, teacher].map(|logits| logits.as_dtype(Dtype::Float32));
    let teacher = crate::stop_gradient(&teacher?)?;
    let off = normed(&teacher)?.subtract(normed(&student?)?)?;
    softmax(&teacher, -1)?.multiply(off)?.sum_axis(-1, false)
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

/// See [`super::top_k`].
#[track_caller]
pub fn top_k(x: &Array, count: usize) -> Result<Array, Exception> {
    if count >= x.dim(-1) as usize {
        return Ok(x.clone());
    }
    let rest = ops::argsort_axis(x.negative()?, -1)?.try_index((Ellipsis, count as i32..))?;
    x.put_along_axis(rest, like(f32::NEG_INFINITY, x)?, -1)
}

/// See [`super::top_p`].
#[track_caller]
pub fn top_p(x: &Array, share: f64) -> Result<Array, Exception> {
    // MLX's cumulative sum of nothing ends the process.
    if x.size() == 0 {
        return Ok(x.clone());
    }
    let sorted = ops::sort_axis(x, -1)?;
    let wide = sorted.as_dtype(Dtype::Float32)?;
    let probs = wide.subtract(wide.max_axis(-1, true)?)?.exp()?;
    let mass_above = probs.cumsum(-1, true, false)?;
    let total = mass_above.try_index((Ellipsis, ..1))?.add(probs.try_index((Ellipsis, ..1))?)?;
    // Above the largest lies nothing, and it stays however small the share is.
    let enough = ops::maximum(total.multiply(Array::from_f32(share as f32))?, Array::from_f32(f32::MIN_POSITIVE))?;
    let dropped = mass_above.ge(enough)?.sum_axis(-1, true)?;
    let threshold = sorted.take_along_axis(dropped, -1)?;
    ops::select(x.lt(threshold)?, like(f32::NEG_INFINITY, x)?, x)
}

/// See [`super::min_p`].
#[track_caller]
pub fn min_p(x: &Array, fraction: f64, at_least: usize) -> Result<Array, Exception> {
    if at_least >= x.dim(-1) as usize {
        return Ok(x.clone());
    }
    let threshold = x.max_axis(-1, true)?.add(like(fraction.ln() as f32, x)?)?;
    let mut removed = x.lt(threshold)?;
    if at_least > 1 {
        let best = ops::argsort_axis(x.negative()?, -1)?.try_index((Ellipsis, ..at_least as i32))?;
        removed = removed.put_along_axis(best, array!(false), -1)?;
    }
    ops::select(removed, like(f32::NEG_INFINITY, x)?, x)
}

/// See [`super::categorical`].
#[track_caller]
pub fn categorical(logits: &Array, scale: f32, key: &Array) -> Result<Array, Exception> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let below = if logits.size() == 0 { logits } else { logits.subtract(logits.max_axis(-1, true)?)? };
    random::categorical(below.multiply(Array::from_f32(scale))?, -1, None, key)
}
