//! Attention to the best blocks of keys only: small heads of an index score the keys, and each group of heads attends to the blocks
//! with the best scores and to the latest ones (MiniMax-M3).
//!
//! Ports the attention of `mlx_lm/models/minimax_m3_vl.py` @ 0.32.2. The keys of an index have a cache of their own, without values.
//! Differences: blocks are counted from the first token of a row, so that a padded batch is as its rows are alone.

use mlxlm_cache::Mask;
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};

use crate::prelude::*;

/// Attention to what an indexer finds, or to everything.
#[derive(Debug)]
pub(crate) struct BlockAttention {
    pub(crate) attention: Attention,
    pub(crate) indexer: Option<BlockIndex>,
}

module!(BlockAttention { attention as "", indexer as "" });

impl Mixer for BlockAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let bias = match &self.indexer {
            Some(indexer) => indexer.find(x, &mut step.part(1)?)?,
            None => None,
        };
        let mut own = step.part(0)?;
        let [q, k, v] = self.attention.prepare(x, &own)?;
        let out = own.attend(&q, &k, &v, &Attend { bias, ..self.attention.how() })?;
        self.attention.leave(&merge_heads(&out)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        let count = if self.indexer.is_some() { 2 } else { 1 };
        vec![CacheKind::List(vec![CacheKind::Kv; count])]
    }
}

/// The heads of an index, its blocks, and how many of those a query attends to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockShape {
    pub(crate) heads: i32,
    pub(crate) dim: i32,
    /// Keys in a block.
    pub(crate) block: i32,
    pub(crate) kept: i32,
    /// The latest blocks, which are among those whatever their scores.
    pub(crate) local: i32,
    /// The dimensions of a head that are rotated.
    pub(crate) rotary: i32,
    pub(crate) norm: HeadNorm,
}

/// Finds the blocks of keys that queries attend to; its weights lie beside those of attention.
#[derive(Debug)]
pub(crate) struct BlockIndex {
    index_q_proj: Linear,
    index_k_proj: Linear,
    index_q_norm: Norm,
    index_k_norm: Norm,
    rope: Rope,
    heads: i32,
    /// How many heads of attention follow one of the indexer.
    followers: i32,
    block: i32,
    /// Blocks that a query attends to.
    kept: i32,
    /// The latest blocks, which are among them whatever their scores.
    local: i32,
}

module!(BlockIndex { index_q_proj, index_k_proj, index_q_norm, index_k_norm });

impl BlockIndex {
    pub(crate) fn load(w: &Weights, c: &Common, shape: BlockShape) -> Result<Self> {
        let BlockShape { heads, dim, block, kept, local, rotary, norm } = shape;
        let all = c.heads()?.count;
        within("index_n_heads", heads, all)?;
        within("index_head_dim", dim, MAX_WIDTH / heads)?;
        within("index_block_size", block, i32::MAX / 2)?;
        within("index_topk_blocks", kept, i32::MAX / 2)?;
        if all % heads != 0 {
            return Err(Error::config(format!(
                "`num_attention_heads` {all} is not a multiple of `index_n_heads` {heads}"
            )));
        }
        let eps = c.rms_norm_eps()?;
        Ok(Self {
            index_q_proj: Linear::load(&w.at("index_q_proj").columns(), heads * dim, c.hidden_size)?,
            index_k_proj: Linear::load(&w.at("index_k_proj"), dim, c.hidden_size)?,
            index_q_norm: norm(&w.at("index_q_norm"), dim, eps)?,
            index_k_norm: norm(&w.at("index_k_norm"), dim, eps)?,
            rope: Rope::over(c.rope(), rotary.min(dim))?,
            heads,
            followers: all / heads,
            block,
            kept,
            local,
        })
    }

    /// Which keys each query of `x` attends to, `[B, H, L, S]`; nothing if it attends to all that it sees.
    pub(crate) fn find(&self, x: &Array, step: &mut Step) -> Result<Option<Array>> {
        let (offset, heads) = (step.offset(), self.heads);
        let rotated = |x: &Array, norm: &Norm| self.rope.forward(&norm.forward(x)?, &offset);
        let k = rotated(&split_heads(&self.index_k_proj.forward(x)?, 1)?, &self.index_k_norm)?;
        let none = ops::zeros_dtype(&[x.dim(0), 1, x.dim(1), 0], k.dtype())?;
        let reach = step.remember(&k, &none, &Attend::scaled(1.0))?;
        let seen = step.seen(&reach)?;
        if self.kept >= (seen.keys.dim(2) + self.block - 1) / self.block {
            return Ok(None);
        }
        let q = rotated(&split_heads(&self.index_q_proj.forward(x)?, heads)?, &self.index_q_norm)?;
        let keys = seen.keys.as_dtype(Dtype::Float32)?.swap_axes(-1, -2)?;
        let scores = q.as_dtype(Dtype::Float32)?.matmul(keys)?;
        let places = Places::new(&offset, x.dim(1), scores.dim(-1), self.block)?;
        let scores = match &seen.mask {
            Mask::None => scores,
            Mask::Causal => ops::select(&places.earlier()?, &scores, Array::from_f32(f32::NEG_INFINITY))?,
            Mask::Array(shown) => ops::select(shown, &scores, Array::from_f32(f32::NEG_INFINITY))?,
        };
        let kept = places.spread(&self.best(&places.by_block(&scores)?, &places)?)?;
        // One choice for all heads that follow a head of the indexer.
        Ok(Some(ops::repeat_axis::<bool>(kept, self.followers, 1)?))
    }

    /// Which blocks are among the best, `[B, heads, L, blocks]`.
    pub(crate) fn best(&self, scores: &Array, places: &Places) -> Result<Array> {
        let mut scores = scores.clone();
        if self.local > 0 {
            let (block, first) = (&places.block_of_query, Array::from_int(self.local));
            let numbers = ops::arange::<_, i32>(None, scores.dim(-1), None)?;
            let is_local = numbers.le(block)?.logical_and(numbers.gt(block.subtract(first)?)?)?;
            scores = ops::select(&is_local, Array::from_f32(f32::INFINITY), &scores)?;
        }
        let chosen = ops::argpartition_axis(scores.negative()?, self.kept - 1, -1)?;
        let chosen = mlxlm_core::stop_gradient(&chosen.try_index((Ellipsis, ..self.kept))?)?;
        Ok(ops::zeros::<bool>(scores.shape())?.put_along_axis(&chosen, Array::from_bool(true), -1)?)
    }
}

/// Where the keys of a step and its queries lie in blocks that are counted from the first token of each row.
#[derive(Debug)]
pub(crate) struct Places {
    /// Keys before the first token of a row: `[B or 1, 1, 1, 1]`.
    before: Array,
    /// The block of each query: `[B or 1, 1, L, 1]`.
    block_of_query: Array,
    queries: i32,
    keys: i32,
    block: i32,
}

impl Places {
    pub(crate) fn new(offset: &Offset, queries: i32, keys: i32, block: i32) -> Result<Self> {
        let first = match offset {
            Offset::Same(first) => Array::from_int(*first),
            Offset::Rows(rows) => rows.as_dtype(Dtype::Int32)?,
            Offset::Tokens(_) => return Err(Error::packing("blocks of keys are chosen for each sequence")),
        };
        let first = first.reshape(&[-1, 1, 1, 1])?;
        let positions = ops::arange::<_, i32>(None, queries, None)?.reshape(&[1, 1, queries, 1])?.add(&first)?;
        let before = Array::from_int(keys - queries).subtract(first)?;
        let block_of_query = positions.floor_divide(Array::from_int(block))?;
        Ok(Self { before, block_of_query, queries, keys, block })
    }

    pub(crate) fn numbers(count: i32) -> Result<Array> {
        Ok(ops::arange::<_, i32>(None, count, None)?.reshape(&[1, 1, 1, count])?)
    }

    /// Which keys are not later than a query, `[1, 1, L, S]`.
    pub(crate) fn earlier(&self) -> Result<Array> {
        let own = ops::arange::<_, i32>(self.keys - self.queries, self.keys, None)?;
        Ok(Self::numbers(self.keys)?.le(own.reshape(&[1, 1, self.queries, 1])?)?)
    }

    /// The best score of each block, `[B, heads, L, blocks]`, of the scores of keys, `[B, heads, L, S]`.
    pub(crate) fn by_block(&self, scores: &Array) -> Result<Array> {
        let blocks = (self.keys + self.block - 1) / self.block;
        let places = Self::numbers(blocks * self.block)?.add(&self.before)?;
        let last = Array::from_int(self.keys - 1);
        let is_key = places.le(&last)?;
        let mut shape = scores.shape().to_vec();
        shape.truncate(3);
        let all = [&shape[..], &[blocks * self.block]].concat();
        let taken = scores.take_along_axis(ops::broadcast_to(&ops::minimum(&places, &last)?, &all)?, -1)?;
        let taken = ops::select(&is_key, &taken, Array::from_f32(f32::NEG_INFINITY))?;
        Ok(taken.reshape(&[&shape[..], &[blocks, self.block]].concat())?.max_axis(-1, false)?)
    }

    /// What holds of a block, `[B, heads, L, blocks]`, of each of its keys, `[B, heads, L, S]`.
    pub(crate) fn spread(&self, of_blocks: &Array) -> Result<Array> {
        let places = ops::maximum(&Self::numbers(self.keys)?.subtract(&self.before)?, Array::from_int(0))?;
        let blocks = places.floor_divide(Array::from_int(self.block))?;
        let mut shape = of_blocks.shape().to_vec();
        shape.truncate(3);
        let all = [&shape[..], &[self.keys]].concat();
        Ok(of_blocks.take_along_axis(ops::broadcast_to(&blocks, &all)?, -1)?)
    }
}
