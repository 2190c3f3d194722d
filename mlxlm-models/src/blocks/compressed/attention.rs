//! Attention to the latest rows and to the groups that an index found.

use mlxlm_cache::{CompressedCache, appended};
use mlxlm_core::fast::{Attention, Sight, Stored};
use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};

use super::compressor::Compressor;
use super::indexer::{Indexer, Lookup};
use super::{Config, rounding};
use crate::prelude::*;

/// What layers hand on to those after them within one pass.
#[derive(Debug, Clone, Default)]
struct Shared {
    groups: Option<Array>,
    keys: Option<Array>,
    candidates: Option<Array>,
    places: Option<Array>,
}

/// The attention of one layer.
#[derive(Debug)]
pub(crate) struct LatestAttention {
    q_a_proj: Linear,
    q_a_norm: Norm,
    q_b_proj: Linear,
    kv_proj: Linear,
    kv_norm: Norm,
    o_a_proj: ExpertLinear,
    o_b_proj: Linear,
    sinks: Parameter,
    compressor: Option<Compressor>,
    indexer: Option<Indexer>,
    heads: i32,
    groups: i32,
    ratio: i32,
    window: i32,
    rope: Rope,
    back: Rope,
}

module!(LatestAttention {
    q_a_proj,
    q_a_norm,
    q_b_proj,
    kv_proj,
    kv_norm,
    o_a_proj,
    o_b_proj,
    sinks,
    compressor,
    indexer
});

/// Stretched frequencies where rows are compressed, and plain ones elsewhere.
fn rope(own: &Config, c: &Common, ratio: i32) -> Result<Rope> {
    let mut rope = c.rope().clone();
    rope.traditional = true;
    if ratio == 0 {
        return Rope::over(&rope.unscaled(), own.qk_rope_head_dim);
    }
    let positions = c.max_positions().map(f64::from);
    let mut rope = rope.with_theta(own.compress_rope_theta);
    let entries = &mut rope.entries;
    entries.rope_type = Some("yarn".into());
    entries.factor.get_or_insert(1.0);
    entries.original_max_position_embeddings = entries.original_max_position_embeddings.or(positions);
    // Scores are not scaled with the stretch.
    (entries.mscale, entries.mscale_all_dim) = (Some(0.0), Some(0.0));
    Rope::over(&rope, own.qk_rope_head_dim)
}

/// Rotates the last dimensions of each row, in `f32`; positions are multiplied by `pace`.
///
/// # Shapes
/// - `x`: `[B, heads, L, d]`, and the same comes back
pub(crate) fn turned(x: &Array, rope: &Rope, start: i32, pace: i32) -> Result<Array> {
    let first = x.dim(-1) - rope.dims();
    let tail = x.try_index((Ellipsis, first..))?.as_dtype(Dtype::Float32)?;
    let tail = rope.turn(&tail, &Offset::Same(start), pace as f32)?.as_dtype(x.dtype())?;
    Ok(ops::concatenate(&[x.try_index((Ellipsis, ..first))?, tail], -1)?)
}

/// As [`turned`], of rows `[B, L, d]`.
fn turned_rows(rows: &Array, rope: &Rope, start: i32, pace: i32) -> Result<Array> {
    Ok(turned(&rows.expand_dims(1)?, rope, start, pace)?.squeeze_axes(&[1])?)
}

impl LatestAttention {
    pub(crate) fn load(w: &Weights, own: &Config, c: &Common, layer: usize) -> Result<Self> {
        let (heads, dim, eps) = (c.num_attention_heads()?, own.head_dim, c.rms_norm_eps()?);
        let (narrow, groups, ratio) = (own.q_lora_rank, own.o_groups, own.ratio(layer));
        let compressor = || Compressor::load(&w.at("compressor"), own, c, layer);
        let indexer = || Indexer::load(&w.at("indexer"), own, c, layer);
        let rope = rope(own, c, ratio)?;
        Ok(Self {
            q_a_proj: Linear::load(&w.at("q_a_proj"), narrow, c.hidden_size)?,
            q_a_norm: Norm::rms(&w.at("q_a_norm"), narrow, eps)?,
            q_b_proj: Linear::load(&w.at("q_b_proj").columns(), heads * dim, narrow)?,
            kv_proj: Linear::load(&w.at("kv_proj"), dim, c.hidden_size)?,
            kv_norm: Norm::rms(&w.at("kv_norm"), dim, eps)?,
            o_a_proj: ExpertLinear::load(&w.at("o_a_proj"), groups, own.o_lora_rank, heads * dim / groups)?,
            o_b_proj: Linear::load(&w.at("o_b_proj").rows(), c.hidden_size, groups * own.o_lora_rank)?,
            sinks: Parameter::load(&w.at("sinks").pinned(), &[heads], Init::Zeros)?,
            compressor: own.kv_source_layer_ids.contains(&layer).then(compressor).transpose()?,
            indexer: own.index_source_layer_ids.contains(&layer).then(indexer).transpose()?,
            heads,
            groups,
            ratio,
            window: c.sliding_window()?.ok_or_else(|| missing("sliding_window"))?,
            back: rope.reversed()?,
            rope,
        })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    pub(crate) fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let mut shared = std::mem::take(step.carry::<Shared>());
        let mut own = CompressedCache::default();
        let result = self.attend(x, step.compressed()?.unwrap_or(&mut own), &mut shared);
        *step.carry::<Shared>() = shared;
        result
    }

    fn attend(&self, x: &Array, cache: &mut CompressedCache, shared: &mut Shared) -> Result<Array> {
        let start = cache.offset();
        let narrow = self.q_a_norm.forward(&self.q_a_proj.forward(x)?)?;
        let q = turned(&split_heads(&self.q_b_proj.forward(&narrow)?, self.heads)?, &self.rope, start, 1)?;
        let row = turned_rows(&self.kv_norm.forward(&self.kv_proj.forward(x)?)?, &self.rope, start, 1)?;
        let latest = cache.slide(&rounding::to_eight_bits(&row)?, self.window)?;
        let near = self.near(x.dim(0), latest.dim(1), x.dim(1))?;
        let mut seen = vec![(latest, near)];
        if self.ratio > 0 {
            self.look_up(x, &narrow, start, cache, shared)?;
            if let (Some(groups), Some(places)) = (&shared.groups, &shared.places)
                && places.dim(-1) > 0
            {
                seen.push((groups.clone(), places.clone()));
            }
        }
        let out = turned(&self.gather(&q, &seen)?, &self.back, start, 1)?;
        self.project(&out)
    }

    /// Compresses what is full, and asks the index, where this layer does so.
    fn look_up(
        &self,
        x: &Array,
        narrow: &Array,
        start: i32,
        cache: &mut CompressedCache,
        shared: &mut Shared,
    ) -> Result<()> {
        if let Some(compressor) = &self.compressor {
            if let (Some(rows), first) = compressor.rows(x, start, cache)? {
                let group = turned_rows(&rows, &self.rope, first, self.ratio)?;
                let group = rounding::to_four_bits_finely(&group)?;
                cache.compressed = Some(appended(cache.compressed.as_ref(), &group)?);
                if let Some(key) = self.indexer.as_ref().map(|indexer| indexer.keys(&rows)).transpose()?.flatten() {
                    let key = rounding::to_four_bits(&turned_rows(&key, &self.rope, first, self.ratio)?)?;
                    cache.index = Some(appended(cache.index.as_ref(), &key)?);
                }
            }
            shared.groups.clone_from(&cache.compressed);
            if self.indexer.is_some() {
                shared.keys.clone_from(&cache.index);
            }
        }
        if let Some(indexer) = &self.indexer {
            let (keys, candidates) = (shared.keys.as_ref(), shared.candidates.as_ref());
            let found = indexer.find(&Lookup { x, narrow, keys, candidates, start }, &self.rope)?;
            shared.places = Some(found.places);
            if indexer.is_candidate_source() {
                shared.candidates = found.candidates;
            }
        }
        Ok(())
    }

    /// The places of the latest rows that each of the last `len` tokens sees, -1 for none: `i32` `[B, L, k]`.
    fn near(&self, batch: i32, rows: i32, len: i32) -> Result<Array> {
        let width = self.window.min(rows);
        let own = ops::arange::<i32, i32>(rows - len, rows, None)?.expand_dims(1)?;
        let first = ops::maximum(own.subtract(Array::from_int(self.window - 1))?, Array::from_int(0))?;
        let places = first.add(ops::arange::<i32, i32>(0, width, None)?.expand_dims(0)?)?;
        let places = ops::select(places.le(&own)?, &places, Array::from_int(-1))?;
        Ok(ops::broadcast_to(places, &[batch, len, width])?)
    }

    /// Attends from each query to the rows at its places, in `f32`; each query has rows of its own, so each is a batch.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, `seen`: rows `[B, S, d]` and places `[B, L, k]`, result: `[B, H, L, d]`
    fn gather(&self, q: &Array, seen: &[(Array, Array)]) -> Result<Array> {
        let &[batch, heads, len, dim] = q.shape() else {
            return Err(Error::config("queries have four axes"));
        };
        let taken = |(rows, places): &(Array, Array)| {
            let (count, none) = (rows.dim(1), Array::from_int(0));
            let base = ops::arange::<i32, i32>(0, batch, None)?.multiply(Array::from_int(count))?;
            let flat = ops::maximum(places, none)?.add(base.reshape(&[batch, 1, 1])?)?;
            rows.reshape(&[batch * count, dim])?.take_axis(flat, 0)
        };
        let rows: Vec<Array> = seen.iter().map(taken).collect::<Result<_, _>>()?;
        let rows = ops::concatenate(&rows, 2)?.reshape(&[batch * len, 1, -1, dim])?.as_dtype(Dtype::Float32)?;
        let places: Vec<&Array> = seen.iter().map(|(_, places)| places).collect();
        let shown = ops::concatenate(&places, -1)?.ge(Array::from_int(0))?.reshape(&[batch * len, 1, 1, -1])?;
        let sinks = self.sinks.value.as_dtype(Dtype::Float32)?;
        let how = Attention {
            sight: Sight::biased(&shown),
            sinks: Some(&sinks),
            ..Attention::scaled((dim as f32).powf(-0.5))
        };
        let alone = q.transpose_axes(&[0, 2, 1, 3])?.reshape(&[batch * len, heads, 1, dim])?;
        let out = fast::attend(&alone.as_dtype(Dtype::Float32)?, Stored::Plain(&rows), Stored::Plain(&rows), &how)?;
        let out = out.reshape(&[batch, len, heads, dim])?.transpose_axes(&[0, 2, 1, 3])?;
        Ok(out.as_dtype(q.dtype())?)
    }

    /// The way out: each group of heads by itself into a narrow width, and all of those into the state.
    fn project(&self, out: &Array) -> Result<Array> {
        let (batch, len) = (out.dim(0), out.dim(2));
        let grouped = merge_heads(out)?.reshape(&[batch * len, self.groups, 1, -1])?;
        let each = ops::arange::<u32, u32>(0, self.groups.unsigned_abs(), None)?;
        let each = ops::broadcast_to(each, &[batch * len, self.groups])?;
        let narrow = self.o_a_proj.forward(&grouped, &each, false)?;
        Ok(self.o_b_proj.forward(&narrow.reshape(&[batch, len, -1])?)?)
    }
}
