//! Attention to the blocks of tokens near a token's own, and to every few of those before them, others for each head (Phi-3-small).
//!
//! Ports `mlx_lm/models/phi3small.py` @ 0.32.2. Differences, after the model's own code: a token sees no later ones, also within its
//! block, and blocks are counted from the first token. What mlx-lm computes instead is in [`Stripes::leak`].

use mlxlm_cache::Seen;

use crate::prelude::*;

/// Attention, to some blocks of tokens only if there are any.
#[derive(Debug)]
pub(crate) struct StripedAttention {
    pub(crate) parts: Attention,
    pub(crate) blocks: Option<Stripes>,
    /// Whether a token also sees the later ones of its block, as in mlx-lm.
    pub(crate) leaks: bool,
}

module!(StripedAttention { parts as "" });

/// Which blocks of tokens a token sees.
#[derive(Debug)]
pub(crate) struct Stripes {
    /// Query heads.
    pub(crate) heads: i32,
    /// Tokens in a block.
    pub(crate) size: i32,
    /// Stripes that all heads see, up to the token's own.
    pub(crate) local: i32,
    /// One in so many of the blocks before those is seen, another one by each head.
    pub(crate) stride: i32,
}

impl Stripes {
    /// What the last `len` of `keys` tokens see, of which the first is at `offset`: `[B, H, len, keys]`.
    pub(crate) fn seen(&self, offset: &Offset, len: i32, keys: i32) -> Result<Array> {
        let row = |count: i32| ops::arange::<i32, i32>(0, count, None);
        // The position of each key, by way of its distance from the first new token.
        let from_new = row(keys)?.subtract(Array::from_int(keys - len))?;
        let keys = match offset {
            Offset::Same(start) => from_new.add(Array::from_int(*start))?.expand_dims_axes(&[0, 1, 2])?,
            Offset::Rows(starts) => from_new.add(starts.expand_dims_axes(&[1, 2, 3])?)?,
            Offset::Tokens(places) => places.expand_dims_axes(&[1, 2])?,
        };
        let new = keys.take_axis(row(len)?.add(Array::from_int(keys.dim(-1) - len))?, -1)?.swap_axes(-1, -2)?;
        Ok(self.pattern(&new, &keys)?.0)
    }

    /// Which keys queries see by their blocks, whatever their order, and whether a key's block comes after the query's.
    ///
    /// # Shapes
    /// - `new`: positions of queries, `[…, L, 1]`, `keys`: those of keys, `[…, 1, S]`; results: `[…, H, L, S]` and `[…, 1, L, S]`
    pub(crate) fn pattern(&self, new: &Array, keys: &Array) -> Result<(Array, Array)> {
        let size = Array::from_int(self.size);
        let (own, keys) = (new.floor_divide(&size)?, keys.floor_divide(&size)?);
        let near = own.subtract(&keys)?.lt(Array::from_int(self.local))?;
        let heads = ops::arange::<i32, i32>(1, self.heads + 1, None)?.expand_dims_axes(&[0, 2, 3])?;
        let chosen = keys.add(heads)?.remainder(Array::from_int(self.stride))?.eq(Array::from_int(0))?;
        Ok((near.logical_or(chosen)?, keys.gt(&own)?))
    }

    /// Attention as mlx-lm computes it: earlier tokens get one more in their scores than later ones of the same block, which are
    /// seen too; and blocks are counted as if the last token ended one.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, result: `[B, H, L, e]`
    pub(crate) fn leak(&self, q: &Array, seen: &Seen, scale: f32) -> Result<Array> {
        let (len, keys) = (q.dim(2), seen.keys.dim(2));
        let row = |first: i32, count: i32| ops::arange::<i32, i32>(first, first + count, None);
        let ends = (keys + self.size - 1) / self.size * self.size;
        let at = row(0, keys)?.expand_dims_axes(&[0, 1, 2])?;
        let (blocks, later) = self.pattern(&row(ends - len, len)?.expand_dims_axes(&[0, 1, 3])?, &at)?;
        let hidden = blocks.logical_not()?.logical_or(later)?;
        let mut added = ops::select(hidden, Array::from_f32(f32::NEG_INFINITY), Array::from_f32(0.0))?;
        if len > 1 {
            let earlier = row(keys - len, len)?.expand_dims_axes(&[0, 1, 3])?.ge(&at)?;
            added = added.add(earlier.as_dtype(Dtype::Float32)?)?;
        }
        let of_query = row(0, q.dim(1))?.floor_divide(Array::from_int(q.dim(1) / seen.keys.dim(1)))?;
        let (keys, values) = (seen.keys.take_axis(&of_query, 1)?, seen.values.take_axis(&of_query, 1)?);
        let scores = q.multiply(Array::from_f32(scale).as_dtype(q.dtype())?)?.matmul(keys.swap_axes(-1, -2)?)?;
        Ok(ops::softmax_axis(scores.add(added.as_dtype(q.dtype())?)?, -1, true)?.matmul(values)?)
    }
}

impl Mixer for StripedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let Some(blocks) = &self.blocks else { return self.parts.forward(x, step) };
        let offset = step.offset();
        let [q, k, v] = self.parts.prepare(x, step)?;
        let mut how = self.parts.how();
        let reach = step.remember(&k, &v, &how)?;
        if self.leaks {
            let mixed = blocks.leak(&q, &step.seen(&reach)?, how.scale)?;
            return self.parts.leave(&merge_heads(&mixed)?);
        }
        how.bias = Some(blocks.seen(&offset, q.dim(2), reach.count())?);
        self.parts.leave(&merge_heads(&step.look(&reach, &q, &how)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.parts.caches()
    }
}
