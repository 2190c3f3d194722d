//! Latent attention to the tokens that an index finds for each query (arXiv:2512.02556).
//!
//! Ports the attention of `mlx_lm/models/deepseek_v32.py` @ 0.32.2. Each layer has a second cache for the keys of its index; as long as
//! there are no more tokens than it finds, all are attended to. Unusual: a layer may have no index of its own, and use what the last
//! one has found (GLM-5.2, after `modeling_glm_moe_dsa.py` of transformers; mlx-lm does not know that).

use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::stop_gradient;

use crate::prelude::*;

/// Latent attention to what an index finds.
#[derive(Debug)]
pub(crate) struct IndexedLatents {
    pub(crate) attention: LatentAttention,
    pub(crate) indexer: Option<TokenIndex>,
    /// Whether the places are those that the last layer with an index of its own has found.
    pub(crate) shares: bool,
}

module!(IndexedLatents { attention as "", indexer });

/// What the last index of this pass has found.
#[derive(Debug, Default, Clone)]
struct Found(Option<Array>);

impl Mixer for IndexedLatents {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let offset = step.offset();
        let q = self.attention.queries(x, &offset)?;
        let [latent, k_pe] = self.attention.latents(x, &offset)?;
        let reach = step.part(0)?.remember(&latent, &k_pe, self.attention.how())?;
        let shown = step.shown(&reach)?;
        let narrow = q.narrow.as_ref().unwrap_or(x);
        if let Some(indexer) = &self.indexer {
            let keys = indexer.keys(x, &offset, &mut step.part(1)?)?;
            if !self.shares {
                step.carry::<Found>().0 = indexer.find(x, narrow, &offset, &keys, shown.as_ref())?;
            }
        }
        let Some(places) = step.carry::<Found>().0.clone() else {
            return self.attention.attend(&q, &reach, None, step);
        };
        let all = [x.dim(0), 1, x.dim(1), reach.keys()?.dim(2)];
        match reach.plain()?.filter(|_| x.dim(1) == 1) {
            // One query reads the rows that were found for it, and no others.
            Some([latent, k_pe]) => {
                let rows = places.swap_axes(-1, -2)?;
                let taken = |of: &Array| {
                    let shape = [all[0], 1, rows.dim(2), of.dim(3)];
                    of.take_along_axis(ops::broadcast_to(&rows, &shape)?, 2)
                };
                let few = Reach::uncached(&taken(&latent)?, &taken(&k_pe)?, self.attention.how())?;
                let shown = shown.map(|shown| ops::broadcast_to(shown, &all)?.take_along_axis(&places, -1));
                self.attention.attend(&q, &few, shown.transpose()?, step)
            }
            None => {
                let found = ops::zeros::<bool>(&all)?.put_along_axis(&places, Array::from_bool(true), -1)?;
                self.attention.attend(&q, &reach, Some(found), step)
            }
        }
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::List(vec![CacheKind::Kv; 1 + usize::from(self.indexer.is_some())])]
    }
}

/// The heads of an index, and how many tokens it finds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexShape {
    pub(crate) heads: i32,
    pub(crate) dim: i32,
    pub(crate) most: i32,
    /// Whether neighbouring dimensions are rotated together.
    pub(crate) interleaved: bool,
}

/// What finds the tokens that a query attends to: scores of small heads, added up with weights of the query's own.
#[derive(Debug)]
pub(crate) struct TokenIndex {
    wq_b: Linear,
    wk: Linear,
    k_norm: Norm,
    weights_proj: Linear,
    rope: Rope,
    heads: i32,
    dim: i32,
    /// So many tokens are found.
    most: i32,
}

module!(TokenIndex { wq_b, wk, k_norm, weights_proj });

impl TokenIndex {
    pub(crate) fn load(w: &Weights, shape: IndexShape, c: &Common, latent: &LatentConfig) -> Result<Self> {
        let IndexShape { heads, dim, most, interleaved } = shape;
        let narrow = latent.q_lora_rank.ok_or_else(|| missing("q_lora_rank"))?;
        let mut rope = c.rope().clone();
        rope.traditional = interleaved;
        Ok(Self {
            wq_b: Linear::load(&w.at("wq_b"), heads * dim, narrow)?,
            wk: Linear::load(&w.at("wk"), dim, c.hidden_size)?,
            k_norm: Norm::layer(&w.at("k_norm"), dim, 1e-5, true)?,
            weights_proj: Linear::load(&w.at("weights_proj"), heads, c.hidden_size)?,
            rope: Rope::over(&rope, latent.qk_rope_head_dim)?,
            heads,
            dim,
            most,
        })
    }

    /// The keys of all tokens so far, `[B, 1, S, d]`.
    pub(crate) fn keys(&self, x: &Array, offset: &Offset, step: &mut Step) -> Result<Array> {
        let key = self.k_norm.forward(&self.wk.forward(x)?)?.expand_dims(1)?;
        let key = self.rope.forward(&key, offset)?;
        // A cache has values too; these are zeros.
        let zeros = ops::zeros_dtype(key.shape(), key.dtype())?;
        Ok(step.remember(&key, &zeros, &Attend::scaled(1.0))?.keys()?)
    }

    /// The places of the keys that each query of `x` attends to, `[B, 1, L, k]`; nothing if it attends to all that it sees.
    pub(crate) fn find(
        &self,
        x: &Array,
        narrow: &Array,
        offset: &Offset,
        keys: &Array,
        shown: Option<&Array>,
    ) -> Result<Option<Array>> {
        let rest = keys.dim(2) - self.most;
        if rest <= 0 {
            return Ok(None);
        }
        let q = self.rope.forward(&split_heads(&self.wq_b.forward(narrow)?, self.heads)?, offset)?;
        let scores = q.matmul(keys.swap_axes(-1, -2)?)?;
        let scores = ops::maximum(&scores, Array::from_f32(0.0).as_dtype(scores.dtype())?)?;
        let weights = self.weights_proj.forward(x)?;
        let scale = (self.heads as f32 * self.dim as f32).powf(-0.5);
        let weights = weights.multiply(Array::from_f32(scale).as_dtype(weights.dtype())?)?;
        let weights = weights.swap_axes(-1, -2)?.expand_dims(-1)?;
        let mut scores = scores.multiply(weights)?.sum_axis(1, true)?;
        if let Some(shown) = shown {
            let hidden = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
            scores = ops::select(shown, &scores, hidden)?;
        }
        let places = ops::argpartition_axis(&scores, rest, -1)?.try_index((Ellipsis, rest..))?;
        Ok(Some(stop_gradient(&places)?))
    }
}
