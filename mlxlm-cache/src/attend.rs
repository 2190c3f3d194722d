//! Attention over what a cache holds.
//!
//! MLX's own `scaled_dot_product_attention` where it applies: plain keys and values, with the causal rule, a mask or
//! sinks. By hand where it does not: soft-capped scores (gemma2), and quantized keys and values, which are multiplied
//! packed. Ports `scaled_dot_product_attention` and its quantized twin (`mlx_lm/models/base.py` 0.32.2). Unusual: sinks
//! and soft-caps work with quantized keys too, which the reference refuses.

use mlxlm_core::fast::{self, ScaledDotProductAttentionMask};
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::{Array, Dtype, ops, quant};

use crate::buffer::Buffer;
use crate::mask::{Chunk, Mask, Masks, Spec};
use crate::quantized::Tensor;
use crate::{Error, Result};

/// How a layer attends.
#[derive(Debug, Clone, Default)]
pub struct Attend {
    /// What scores are multiplied with, as in `1 / sqrt(d)`.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A score for each head that takes part in the softmax and has no value: `[H]`.
    pub sinks: Option<Array>,
    /// A token sees this many tokens, itself the last of them.
    pub window: Option<i32>,
    /// A token sees those of its own chunk, of this many tokens, only. A chunked cache brings this with it.
    pub chunk: Option<i32>,
}

impl Attend {
    /// Attention to all earlier tokens.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Checks that a token sees at least itself.
    pub(crate) fn check(&self) -> Result<()> {
        match (self.window, self.chunk) {
            (Some(window @ ..=0), _) => Err(Error::Window { window }),
            (_, Some(chunk_size @ ..=0)) => Err(Error::Chunk { chunk_size }),
            _ => Ok(()),
        }
    }
}

/// What the queries of a step see, for architectures that compute attention themselves.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `[B, K, S, d]`
    pub keys: Array,
    /// `[B, K, S, e]`
    pub values: Array,
    /// Which of the keys each query sees.
    pub mask: Mask,
}

/// Attention of each token to those before it, without a cache.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`, result: `[B, H, L, e]`
pub fn attend_uncached(q: &Array, k: &Array, v: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
    if let Attend { scale, softcap: None, sinks: None, window: None, chunk: None } = how {
        return Ok(fast::causal_attention(q, k, v, *scale)?);
    }
    how.check()?;
    let kv = Buffer::new(k, v, None)?;
    let chunk = how.chunk.map(|size| Chunk { size, first: 0 });
    let spec = Spec { len: kv.len(), window: how.window, chunk, ..Spec::default() };
    Reach { kv, mask: masks.mask(&spec)? }.attend(q, how, masks)
}

/// The part of a cache that queries can see, in whatever format.
#[derive(Debug)]
pub(crate) struct Reach {
    pub kv: Buffer,
    pub mask: Mask,
}

impl Reach {
    /// What `q` makes of it.
    pub(crate) fn attend(&self, q: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
        match (&self.kv.keys, &self.kv.values, how.softcap) {
            (Tensor::Plain(k), Tensor::Plain(v), None) => {
                let mask = match &self.mask {
                    Mask::None => None,
                    Mask::Causal => Some(ScaledDotProductAttentionMask::Causal),
                    Mask::Array(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
                };
                Ok(fast::scaled_dot_product_attention(q, k, v, how.scale, mask, how.sinks.as_ref())?)
            }
            (keys, values, _) => self.attend_by_hand(q, keys, values, how, masks),
        }
    }

    fn attend_by_hand(&self, q: &Array, keys: &Tensor, values: &Tensor, how: &Attend, masks: &Masks) -> Result<Array> {
        let ([b, h, l, d], [_, k, s, _]) = (four(q)?, keys.shape());
        let q = q.multiply(scalar(how.scale, q.dtype())?)?;
        // Query heads in groups that share a kv-head: [B, K, H / K, L, d] against [B, K, 1, S, d].
        let q = q.reshape(&[b, k, h / k, l, d])?;
        let mut scores = multiply(&q, &keys.map(|part| Ok(part.expand_dims(2)?))?, Side::Keys)?;
        if let Some(cap) = how.softcap {
            let cap = scalar(cap, scores.dtype())?;
            scores = ops::tanh(scores.divide(&cap)?)?.multiply(&cap)?;
        }
        if let Some(mask) = self.mask_array(l, s, masks)? {
            scores = ops::select(mask, &scores, lowest(scores.dtype())?)?;
        }
        let weights = match &how.sinks {
            None => ops::softmax_axis(&scores, -1, true)?,
            Some(sinks) => {
                let sinks = sinks.as_dtype(scores.dtype())?.reshape(&[1, k, h / k, 1, 1])?;
                let sinks = ops::broadcast_to(sinks, &[b, k, h / k, l, 1])?;
                let all = ops::softmax_axis(ops::concatenate(&[scores, sinks], -1)?, -1, true)?;
                all.try_index((Ellipsis, 0..s))?
            }
        };
        let out = multiply(&weights, &values.map(|part| Ok(part.expand_dims(2)?))?, Side::Values)?;
        Ok(out.reshape(&[b, h, l, values.shape()[3]])?)
    }

    /// The mask as an array that fits scores `[B, K, H / K, L, S]`.
    fn mask_array(&self, len: i32, keys: i32, masks: &Masks) -> Result<Option<Array>> {
        Ok(match &self.mask {
            Mask::None => None,
            Mask::Causal => Some(masks.causal(len, keys)?),
            Mask::Array(mask) if mask.ndim() == 4 => Some(mask.expand_dims(2)?),
            Mask::Array(mask) => Some(mask.clone()),
        })
    }
}

/// What queries, or weights, are multiplied with.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Keys,
    Values,
}

/// `x @ keys.T` or `x @ values`.
fn multiply(x: &Array, with: &Tensor, side: Side) -> Result<Array> {
    Ok(match with {
        Tensor::Plain(array) if side == Side::Keys => x.matmul(array.swap_axes(-1, -2)?)?,
        Tensor::Plain(array) => x.matmul(array)?,
        Tensor::Packed(packed, scheme) => quant::quantized_matmul(x, packed, *scheme, side == Side::Keys)?,
    })
}

fn four(q: &Array) -> Result<[i32; 4]> {
    let shape = q.shape();
    let expected = "[B, H, L, d]";
    shape.try_into().map_err(|_| Error::Shape { what: "queries", expected: expected.into(), got: shape.to_vec() })
}

/// A number in the type of the arrays that it meets, so that it does not widen them.
fn scalar(value: f32, dtype: Dtype) -> Result<Array> {
    Ok(Array::from_f32(value).as_dtype(dtype)?)
}

/// The lowest finite number: a row of which nothing is seen stays finite.
fn lowest(dtype: Dtype) -> Result<Array> {
    scalar(
        match dtype {
            Dtype::Float16 => -65_504.0,
            Dtype::Bfloat16 => -3.389_531_4e38,
            _ => f32::MIN,
        },
        dtype,
    )
}
