//! Dropping the keys and values that a long prompt's end does not look at (SnapKV, arXiv:2404.14469).
//!
//! The last queries of a prompt show which of its tokens an answer will need. Kept are the first tokens, the latest, and between
//! them those with the highest scores; positions stay what they were. A layer is eligible if it keeps all keys and values and
//! its queries see all of them.
//!
//! Scores are those of the fork (`snapkv` of `mlx_lm/generate.py`): raw products of queries and keys, the maximum over heads and queries.

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, ops};

use crate::buffer::Buffer;
use crate::kv::KvCache;
use crate::{Attend, Caches, Error, LayerCache, Result};

/// What is kept of a long prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapKv {
    /// Tokens that are kept for their scores.
    pub top_k: i32,
    /// First tokens that are always kept.
    pub sink: i32,
    /// Latest tokens that are always kept.
    pub window: i32,
    /// Queries at the end of the prompt that score the others.
    pub queries: i32,
    /// Scores are averaged over so many neighbours.
    pub pool: i32,
    /// Prompts shorter than this are kept whole.
    pub min_tokens: usize,
    /// Drops tokens after each chunk of the prompt, by the queries at its end: memory stays small while a prompt is read, and what the
    /// prompt's end would have asked for may be gone by then.
    pub while_reading: bool,
}

impl Default for SnapKv {
    fn default() -> Self {
        let (top_k, sink, window, queries, pool) = (4096, 128, 512, 32, 1);
        Self { top_k, sink, window, queries, pool, min_tokens: 49152, while_reading: false }
    }
}

impl SnapKv {
    /// Refuses numbers that mean nothing.
    pub fn check(&self) -> Result<()> {
        let positive = [("queries", self.queries), ("window", self.window), ("pool", self.pool)];
        if let Some((name, value)) = positive.into_iter().find(|(_, value)| *value < 1) {
            return Err(Error::SnapKv { name, value, expected: "a positive number" });
        }
        let counts = [("top_k", self.top_k), ("sink", self.sink)];
        if let Some((name, value)) = counts.into_iter().find(|(_, value)| *value < 0) {
            return Err(Error::SnapKv { name, value, expected: "a number that is not negative" });
        }
        Ok(())
    }

    /// The tokens that are kept at most.
    fn most(&self) -> i32 {
        self.sink.saturating_add(self.window).saturating_add(self.top_k)
    }
}

impl Caches {
    /// Lets eligible layers note the last queries of the next pass, for [`evict`](Self::evict).
    pub fn watch(&mut self, options: &SnapKv) {
        self.layers_mut().iter_mut().for_each(|layer| layer.watch(options.queries));
    }

    /// Drops what the queries of the last pass do not look at: in how many layers.
    pub fn evict(&mut self, options: &SnapKv) -> Result<usize> {
        let mut layers = 0;
        for layer in self.layers_mut() {
            layers += layer.evict(options)?;
        }
        Ok(layers)
    }
}

impl LayerCache {
    fn watch(&mut self, queries: i32) {
        match self {
            Self::Kv(cache) => cache.watch = Some(Watch { queries, seen: None }),
            Self::List(caches) => caches.iter_mut().for_each(|cache| cache.watch(queries)),
            _ => {}
        }
    }

    /// Notes the last queries of a pass, if the layer is watched and its queries see all keys.
    pub fn note_queries(&mut self, q: &Array, how: &Attend) -> Result<()> {
        let Self::Kv(KvCache { watch: Some(watch), .. }) = self else { return Ok(()) };
        if how.window.is_none() && how.chunk.is_none() && q.dim(0) == 1 {
            let first = (q.dim(2) - watch.queries).max(0);
            watch.seen = Some(q.try_index((.., .., first.., ..))?);
        }
        Ok(())
    }

    fn evict(&mut self, options: &SnapKv) -> Result<usize> {
        match self {
            Self::Kv(cache) => cache.evict(options),
            Self::List(caches) => caches.iter_mut().try_fold(0, |n, cache| Ok(n + cache.evict(options)?)),
            _ => Ok(0),
        }
    }
}

/// The last queries of a pass.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    queries: i32,
    /// `[1, H, n, d]`
    seen: Option<Array>,
}

impl KvCache {
    fn evict(&mut self, options: &SnapKv) -> Result<usize> {
        let Some(Watch { seen: Some(q), .. }) = self.watch.take() else { return Ok(0) };
        let Some(held) = self.held()? else { return Ok(0) };
        let middle = (options.sink, held.len() - options.window);
        if held.len() <= options.most() {
            return Ok(1);
        }
        let scores = scores(&q, &held, middle, options.pool)?;
        let kept = if options.top_k == 0 {
            ops::arange::<i32, i32>(0, options.sink, None)?
        } else {
            let order = ops::argsort_axis(scores.negative()?, -1)?.try_index(..options.top_k)?;
            let chosen = ops::sort_axis(order.as_dtype(Dtype::Int32)?, -1)?.add(Array::from_int(middle.0))?;
            ops::concatenate(&[ops::arange::<i32, i32>(0, options.sink, None)?, chosen], 0)?
        };
        let latest = ops::arange::<i32, i32>(middle.1, held.len(), None)?;
        let kept = ops::concatenate(&[kept, latest], 0)?;
        let buffer = held.take(&kept)?;
        self.tail = self.tail.min(options.window);
        self.evicted += held.len() - buffer.len();
        self.buffer = Some(buffer);
        Ok(1)
    }
}

/// The highest product of any query with each key from `middle.0` to `middle.1`, averaged over `pool` neighbours: `[n]`, in f32.
///
/// # Shapes
/// - `q`: `[1, H, n, d]`
fn scores(q: &Array, held: &Buffer, middle: (i32, i32), pool: i32) -> Result<Array> {
    /// Keys whose scores exist at a time.
    const BLOCK: i32 = 4096;
    let mut parts = Vec::new();
    let mut from = middle.0;
    while from < middle.1 {
        let to = (from + BLOCK).min(middle.1);
        let keys = held.view(from, to)?.keys.to_plain()?;
        let groups = q.dim(1) / keys.dim(1);
        let q = q.reshape(&[keys.dim(1), groups * q.dim(2), q.dim(3)])?;
        let keys = keys.squeeze_axes(&[0])?.swap_axes(-1, -2)?.as_dtype(q.dtype())?;
        let products = q.matmul(&keys)?.as_dtype(Dtype::Float32)?;
        parts.push(products.max_axes(&[0, 1], false)?);
        from = to;
    }
    let scores = ops::concatenate(&parts, 0)?;
    if pool <= 1 { Ok(scores) } else { pooled(&scores, pool) }
}

/// The mean of `pool` neighbours; fewer at the ends.
fn pooled(scores: &Array, pool: i32) -> Result<Array> {
    let (before, after, len) = ((pool - 1) / 2, pool / 2, scores.dim(0));
    let shifted = |array: &Array, by: i32| -> Result<Array> {
        let gap = ops::zeros::<f32>(&[by.abs().min(len)])?;
        Ok(match by {
            0 => array.clone(),
            1.. => ops::concatenate(&[array.try_index(by.min(len)..)?, gap], 0)?,
            _ => ops::concatenate(&[gap, array.try_index(..(len + by).max(0))?], 0)?,
        })
    };
    let ones = ops::ones::<f32>(&[len])?;
    let (mut sum, mut count) = (ops::zeros::<f32>(&[len])?, ops::zeros::<f32>(&[len])?);
    for by in -before..=after {
        (sum, count) = (sum.add(shifted(scores, by)?)?, count.add(shifted(&ones, by)?)?);
    }
    Ok(sum.divide(count)?)
}
