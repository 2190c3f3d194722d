//! Attention in MLX's operations: its own kernel where that applies, else by hand (soft-capped scores, and quantized keys and
//! values, which are multiplied packed).

use mlx_rs::error::Exception;
use mlx_rs::fast::{self, ScaledDotProductAttentionMask};
use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp};
use mlx_rs::{Array, Dtype, ops};

use crate::fast::{Attention, Causal, Chunk, Ring, Sight, Stored};
use crate::quant;

/// See [`crate::fast::attend`].
#[track_caller]
pub fn attend(q: &Array, keys: Stored<'_>, values: Stored<'_>, how: &Attention<'_>) -> Result<Array, Exception> {
    let (Stored::Plain(k), Stored::Plain(v), None) = (keys, values, how.softcap) else {
        return attend_by_hand(q, keys, values, how);
    };
    let seen = match &how.sight {
        Sight { rule: Some(rule), bias: None } if !rule.hides(k.dim(2)) => None,
        sight => shown(sight, q.dim(2), k.dim(2))?,
    };
    let mask = match &seen {
        Some(seen) => Some(ScaledDotProductAttentionMask::Array(seen)),
        None => how.sight.rule.as_ref().map(|_| ScaledDotProductAttentionMask::Causal),
    };
    fast::scaled_dot_product_attention(q, k, v, how.scale, mask, how.sinks)
}

/// See [`crate::fast::attend_latent`].
#[track_caller]
pub fn attend_latent(
    q_nope: &Array,
    q_pe: &Array,
    latent: Stored<'_>,
    k_pe: Stored<'_>,
    how: &Attention<'_>,
) -> Result<Array, Exception> {
    attend_parts(&[(q_nope, latent), (q_pe, k_pe)], latent, how)
}

/// What a sight shows of `keys` keys to `queries` queries: `None` for all, else an array as in [`Sight::bias`].
fn shown(sight: &Sight<'_>, queries: i32, keys: i32) -> Result<Option<Array>, Exception> {
    let seen = sight.rule.as_ref().map(|rule| seen(rule, queries, keys)).transpose()?;
    Ok(match (seen, sight.bias) {
        (None, bias) => bias.cloned(),
        (seen, None) => seen,
        (Some(seen), Some(bias)) if bias.dtype() == Dtype::Bool => Some(seen.logical_and(bias)?),
        (Some(seen), Some(bias)) => {
            Some(ops::select(seen, bias, Array::from_f32(lowest(bias.dtype())).as_dtype(bias.dtype())?)?)
        }
    })
}

/// The rule as an array for `queries` queries, the last of `keys` keys: `[L, S]`, or `[B, 1, L, S]` with padding or documents. Columns
/// are the keys where they lie.
///
/// # Errors
/// Of a ring that so many keys cannot lie in.
#[track_caller]
pub fn seen(rule: &Causal, queries: i32, keys: i32) -> Result<Array, Exception> {
    let seen = seen_in_time(rule, queries, keys)?;
    let Some(Ring { keep, newest }) = rule.ring else { return Ok(seen) };
    if !rule.ring.is_some_and(|ring| ring.fits(keys)) {
        return Err(Exception::custom(format!(
            "{keys} keys cannot lie in a ring that keeps {keep}, the newest at {newest}"
        )));
    }
    // Behind the kept keys lie the youngest, up to the newest of all, and behind those the oldest.
    let youngest = keys - (newest + 1 - keep);
    let part = |from: i32, to: i32| seen.try_index((Ellipsis, from..to));
    ops::concatenate(&[part(0, keep)?, part(youngest, keys)?, part(keep, youngest)?], -1)
}

/// [`seen`] of keys in the order of time.
fn seen_in_time(rule: &Causal, queries: i32, keys: i32) -> Result<Array, Exception> {
    let own = ops::arange::<i32, i32>(keys - queries, keys, None)?.expand_dims(1)?;
    let keys = ops::arange::<i32, i32>(0, keys, None)?.expand_dims(0)?;
    let mut last = own.clone();
    let mut seen = None;
    let mut both = |more: Array| -> Result<(), Exception> {
        seen = Some(seen.take().map_or(Ok(more.clone()), |seen: Array| seen.logical_and(&more))?);
        Ok(())
    };
    if let Some(window) = rule.window {
        both(keys.add(Array::from_int(window))?.gt(&own)?)?;
    }
    if let Some(Chunk { size, first }) = rule.chunk {
        // Where the chunk of the query begins.
        let place = own.add(Array::from_int(first))?;
        let start = place.floor_divide(Array::from_int(size))?.multiply(Array::from_int(size))?;
        both(keys.add(Array::from_int(first))?.ge(start)?)?;
    }
    if rule.documents.iter().flatten().any(|&start| start > 0) {
        let count = keys.dim(1);
        let of_row = |row| (count - queries..count).map(move |own| rule.document(row, own));
        let starts: Vec<i32> = (0..rule.documents.len()).flat_map(of_row).collect();
        both(keys.ge(Array::from_slice(&starts, &[rule.documents.len() as i32, 1, queries, 1]))?)?;
    }
    if rule.padding.iter().any(|&padding| padding > 0) {
        let most = keys.dim(1) - 1;
        let padding: Vec<i32> = rule.padding.iter().map(|&padding| padding.clamp(0, most)).collect();
        let padding = Array::from_slice(&padding, &[padding.len() as i32, 1, 1, 1]);
        both(keys.ge(&padding)?)?;
        last = ops::maximum(last, &padding)?;
    }
    both(keys.le(last)?)?;
    seen.ok_or_else(|| Exception::custom("a rule says nothing"))
}

/// Attention of products and a softmax, with scores `[B, K, H / K, L, S]`.
#[track_caller]
pub(crate) fn attend_by_hand(
    q: &Array,
    keys: Stored<'_>,
    values: Stored<'_>,
    how: &Attention<'_>,
) -> Result<Array, Exception> {
    attend_parts(&[(q, keys)], values, how)
}

/// [`attend_by_hand`] of queries and keys in parts, whose scores are added up.
fn attend_parts(parts: &[(&Array, Stored<'_>)], values: Stored<'_>, how: &Attention<'_>) -> Result<Array, Exception> {
    let &(q, keys) = parts.first().ok_or_else(|| Exception::custom("attention needs queries"))?;
    let &[b, h, l, _] = q.shape() else { return Err(Exception::custom("queries must be [B, H, L, d]")) };
    let (kv_heads, s) = (keys.array().dim(1), keys.array().dim(2));
    let grouped = [b, kv_heads, h / kv_heads.max(1), l, s];
    let scalar = |value: f32| Array::from_f32(value).as_dtype(q.dtype());
    let product = |&(q, keys): &(&Array, Stored<'_>)| {
        let scaled = q.multiply(scalar(how.scale)?)?.reshape(&[b, kv_heads, grouped[2], l, q.dim(-1)])?;
        multiply(&scaled, keys, Side::Keys)
    };
    let mut scores = product(&parts[0])?;
    for part in &parts[1..] {
        scores = scores.add(product(part)?)?;
    }
    if let Some(cap) = how.softcap {
        scores = ops::tanh(scores.divide(scalar(cap)?)?)?.multiply(scalar(cap)?)?;
    }
    if let Some(shown) = shown(&how.sight, l, s)? {
        let mask = ops::broadcast_to(shown, &[b, h, l, s])?.reshape(&grouped)?;
        scores = match mask.dtype() {
            Dtype::Bool => ops::select(mask, scores, scalar(lowest(q.dtype()))?)?,
            dtype => scores.add(mask.as_dtype(if dtype == Dtype::Float32 { dtype } else { q.dtype() })?)?,
        };
    }
    let weights = match how.sinks {
        None => ops::softmax_axis(&scores, -1, true)?,
        Some(sinks) => {
            let sinks = sinks.as_dtype(scores.dtype())?.reshape(&[1, kv_heads, grouped[2], 1, 1])?;
            let sinks = ops::broadcast_to(sinks, &[b, kv_heads, grouped[2], l, 1])?;
            let all = ops::softmax_axis(ops::concatenate(&[sinks, scores], -1)?, -1, true)?;
            ops::split_at_indices(&all, &[1], -1)?.swap_remove(1)
        }
    };
    let out = multiply(&weights.as_dtype(q.dtype())?, values, Side::Values)?;
    out.reshape(&[b, h, l, out.dim(-1)])
}

/// What queries, or weights, are multiplied with.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Keys,
    Values,
}

/// `x @ keys.T` or `x @ values`, of which each serves a group of heads.
fn multiply(x: &Array, with: Stored<'_>, side: Side) -> Result<Array, Exception> {
    match with {
        Stored::Plain(array) if side == Side::Keys => x.matmul(array.expand_dims(2)?.swap_axes(-1, -2)?),
        Stored::Plain(array) => x.matmul(array.expand_dims(2)?),
        Stored::Packed(packed, scheme) => {
            let biases = packed.biases.as_ref().map(|biases| biases.expand_dims(2)).transpose()?;
            let grouped =
                quant::Packed { weight: packed.weight.expand_dims(2)?, scales: packed.scales.expand_dims(2)?, biases };
            quant::quantized_matmul(x, &grouped, scheme, side == Side::Keys)
        }
    }
}

/// The lowest finite number: a row of which nothing is seen stays finite.
fn lowest(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float16 => -65_504.0,
        Dtype::Bfloat16 => -3.389_531_4e38,
        _ => f32::MIN,
    }
}
