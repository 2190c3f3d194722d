//! The plain version of attention, in MLX's operations: what the kernel is held against, and differentiated by.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, ops};

use super::{Rule, Spec};

/// As [`super::attend`], for any device; an additive mask may hold minus infinity, but not for all keys of a query.
pub(super) fn attend(
    q: &Array,
    k: &Array,
    v: &Array,
    spec: Spec,
    mask: Option<&Array>,
    sinks: Option<&Array>,
) -> Result<Array, Exception> {
    let [b, h, l, d] = [0, 1, 2, 3].map(|axis| q.dim(axis));
    let (kv_heads, s) = (k.dim(1), k.dim(2));
    let grouped = [b, kv_heads, h / kv_heads, l, s];
    let scalar = |value: f32| Array::from_f32(value).as_dtype(q.dtype());
    let q = q.multiply(scalar(spec.scale)?)?.reshape(&[b, kv_heads, h / kv_heads, l, d])?;
    let mut scores = ops::matmul(&q, k.expand_dims(2)?.swap_axes(-1, -2)?)?;
    if let Some(cap) = spec.softcap {
        scores = ops::tanh(scores.divide(scalar(cap)?)?)?.multiply(scalar(cap)?)?;
    }
    let lowest = match q.dtype() {
        Dtype::Float16 => -65504.0,
        Dtype::Bfloat16 => -3.389_531_4e38,
        _ => f32::MIN,
    };
    if spec.rule == Rule::Causal {
        let keys = ops::arange::<_, i32>(0, s, None)?.reshape(&[1, s])?;
        let last_seen = ops::arange::<_, i32>(s - l, s, None)?.reshape(&[l, 1])?;
        scores = ops::select(keys.le(&last_seen)?, &scores, scalar(lowest)?)?;
    }
    if let Some(mask) = mask {
        let mask = ops::broadcast_to(mask, &[b, h, l, s])?.reshape(&grouped)?;
        scores = match mask.dtype() {
            Dtype::Bool => ops::select(mask, &scores, scalar(lowest)?)?,
            _ => scores.add(mask.as_dtype(q.dtype())?)?,
        };
    }
    let weights = match sinks {
        None => ops::softmax_axis(&scores, -1, true)?,
        Some(sinks) => {
            let sinks = sinks.as_dtype(q.dtype())?.reshape(&[1, kv_heads, h / kv_heads, 1, 1])?;
            let sinks = ops::broadcast_to(sinks, &[b, kv_heads, h / kv_heads, l, 1])?;
            let all = ops::softmax_axis(ops::concatenate(&[sinks, scores], -1)?, -1, true)?;
            ops::split_at_indices(&all, &[1], -1)?.swap_remove(1)
        }
    };
    ops::matmul(weights, v.expand_dims(2)?)?.reshape(&[b, h, l, v.dim(3)])
}
