//! The index of compressed groups: which of them a query attends to.

use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::stop_gradient;

use super::attention::turned;
use super::{Config, rounding};
use crate::prelude::*;

/// The index of a layer.
#[derive(Debug)]
pub(crate) struct Indexer {
    q_b_proj: Linear,
    weights_proj: Linear,
    k_proj: Option<Linear>,
    k_norm: Option<Norm>,
    ratio: i32,
    heads: i32,
    dim: i32,
    most: i32,
    /// Blocks of groups, of which this layer chooses so many for those after it.
    blocks: Option<Blocks>,
    is_candidate_source: bool,
}

#[derive(Debug)]
struct Blocks {
    kept: i32,
    size: i32,
}

module!(Indexer { q_b_proj, weights_proj, k_proj, k_norm });

/// What an index found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The groups of each query, -1 for none: `i32` `[B, L, k]`.
    pub(crate) places: Array,
    /// The groups that layers after this one may look at, `[B, L, groups]`; nothing if this layer does not choose them.
    pub(crate) candidates: Option<Array>,
}

/// What a query is looked up with.
#[derive(Debug)]
pub(crate) struct Lookup<'a> {
    /// The state, `[B, L, D]`.
    pub(crate) x: &'a Array,
    /// What queries are made of, `[B, L, q_lora_rank]`.
    pub(crate) narrow: &'a Array,
    /// A key for each group, `[B, groups, d]`.
    pub(crate) keys: Option<&'a Array>,
    /// Which groups may be looked at, `[B, L, groups]`.
    pub(crate) candidates: Option<&'a Array>,
    /// The position of the first token.
    pub(crate) start: i32,
}

impl Indexer {
    pub(crate) fn load(w: &Weights, own: &Config, c: &Common, layer: usize) -> Result<Self> {
        let (heads, dim) = (own.index_n_heads, own.index_head_dim);
        let has_keys = own.kv_source_layer_ids.contains(&layer);
        let k_norm = || Norm::rms(&w.at("k_norm"), dim, c.rms_norm_eps()?).map_err(Error::from);
        let is_candidate_source = i64::try_from(layer) == Ok(own.candidate_source_layer_id);
        let blocks = Blocks { kept: own.candidate_topk_blocks, size: own.candidate_block_size };
        Ok(Self {
            q_b_proj: Linear::load(&w.at("q_b_proj"), heads * dim, own.q_lora_rank)?,
            weights_proj: Linear::load(&w.at("weights_proj"), heads, c.hidden_size)?,
            k_proj: has_keys.then(|| Linear::load(&w.at("k_proj"), dim, own.head_dim)).transpose()?,
            k_norm: has_keys.then(k_norm).transpose()?,
            ratio: own.ratio(layer),
            heads,
            dim,
            most: own.index_topk,
            blocks: (is_candidate_source && blocks.kept > 0).then_some(blocks),
            is_candidate_source,
        })
    }

    /// Whether this layer says which groups those after it may look at.
    pub(crate) fn is_candidate_source(&self) -> bool {
        self.is_candidate_source
    }

    /// The keys of new groups, before they are rotated; nothing in a layer that has none.
    ///
    /// # Shapes
    /// - `rows`: `[B, groups, head_dim]`, result: `[B, groups, d]`
    pub(crate) fn keys(&self, rows: &Array) -> Result<Option<Array>> {
        match (&self.k_proj, &self.k_norm) {
            (Some(project), Some(norm)) => Ok(Some(norm.forward(&project.forward(rows)?)?)),
            _ => Ok(None),
        }
    }

    /// The groups that each query attends to.
    pub(crate) fn find(&self, of: &Lookup, rope: &Rope) -> Result<Found> {
        let (batch, len) = (of.x.dim(0), of.x.dim(1));
        let Some(keys) = of.keys.filter(|keys| keys.dim(1) > 0) else {
            let places = ops::zeros::<i32>(&[batch, len, 0])?;
            return Ok(Found { places, candidates: of.candidates.cloned() });
        };
        let groups = keys.dim(1);
        let hidden = Array::from_f32(f32::NEG_INFINITY);
        // A query sees the groups that end at or before it.
        let ends = ops::arange::<i32, i32>(of.start + 1, of.start + 1 + len, None)?;
        let ends = ends.floor_divide(Array::from_int(self.ratio.max(1)))?.expand_dims(1)?;
        let visible = ops::arange::<i32, i32>(0, groups, None)?.expand_dims(0)?.lt(&ends)?;
        let mut scores = ops::select(visible.expand_dims(0)?, self.scores(of, keys, rope)?, &hidden)?;
        let mut candidates = of.candidates.cloned();
        if let Some(blocks) = &self.blocks {
            candidates = Some(blocks.choose(&scores, &ends)?);
        } else if let Some(candidates) = of.candidates {
            scores = ops::select(candidates, &scores, &hidden)?;
        }
        let most = self.most.min(groups);
        let places = ops::argpartition_axis(scores.negative()?, most - 1, -1)?;
        let places = stop_gradient(places.try_index((Ellipsis, ..most))?)?.as_dtype(Dtype::Int32)?;
        let places = ops::select(places.lt(ends.expand_dims(0)?)?, &places, Array::from_int(-1))?;
        Ok(Found { places, candidates })
    }

    /// `f32` `[B, L, groups]`.
    fn scores(&self, of: &Lookup, keys: &Array, rope: &Rope) -> Result<Array> {
        let q = split_heads(&self.q_b_proj.forward(of.narrow)?, self.heads)?;
        let q = rounding::to_four_bits(&turned(&q, rope, of.start, 1)?)?.as_dtype(Dtype::Float32)?;
        let keys = keys.as_dtype(Dtype::Float32)?.expand_dims(1)?;
        let scores = ops::maximum(q.matmul(keys.swap_axes(-1, -2)?)?, Array::from_f32(0.0))?;
        let scores = scores.multiply(Array::from_f32((self.dim as f32).powf(-0.5)))?;
        let weights = self.weights_proj.forward(of.x)?.as_dtype(Dtype::Float32)?;
        let weights = weights.multiply(Array::from_f32((self.heads as f32).powf(-0.5)))?;
        Ok(scores.multiply(weights.swap_axes(-1, -2)?.expand_dims(-1)?)?.sum_axis(1, false)?)
    }
}

impl Blocks {
    /// The groups of the best blocks, `[B, L, groups]`. The newest block of each query is always among them: it is only partly
    /// full, so that an older one may score higher.
    fn choose(&self, scores: &Array, ends: &Array) -> Result<Array> {
        let (batch, len, groups) = (scores.dim(0), scores.dim(1), scores.dim(2));
        let count = (groups + self.size - 1) / self.size;
        let hidden = Array::from_f32(f32::NEG_INFINITY);
        let gap = count * self.size - groups;
        let padded = ops::pad(scores, &[(0, 0), (0, 0), (0, gap)][..], hidden.clone(), None)?;
        let best = padded.reshape(&[batch, len, count, self.size])?.max_axis(-1, false)?;
        let one = Array::from_int(1);
        let newest = ends.subtract(&one)?.floor_divide(Array::from_int(self.size))?;
        let newest = ops::select(ends.ge(&one)?, newest, Array::from_int(-1))?;
        let is_newest = ops::arange::<i32, i32>(0, count, None)?.expand_dims(0)?.eq(&newest)?;
        let best = ops::select(is_newest, Array::from_f32(f32::INFINITY), &best)?;
        let kept = self.kept.min(count);
        let chosen = ops::argpartition_axis(best.negative()?, kept - 1, -1)?.try_index((Ellipsis, ..kept))?;
        let chosen = stop_gradient(chosen)?;
        let is_reached = best.take_along_axis(&chosen, -1)?.gt(&hidden)?;
        let none = ops::zeros::<bool>(&[batch, len, count])?;
        let blocks = none.put_along_axis(&chosen, &is_reached, -1)?.expand_dims(-1)?;
        let all = ops::broadcast_to(blocks, &[batch, len, count, self.size])?;
        Ok(all.reshape(&[batch, len, count * self.size])?.try_index((Ellipsis, ..groups))?)
    }
}
