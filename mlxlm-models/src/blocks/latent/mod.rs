//! Multi-head latent attention (arXiv:2405.04434): keys and values of all heads are made of one latent vector for each token.
//!
//! Some architectures remember the keys and values of all heads ([`LatentHeads::spelled`]), others the latents and the rotated
//! part of the keys, which all heads share. Then the projection into heads is cut into one map for each head on the side of
//! the keys and one on the side of the values: a single query goes into the latents, where it attends, and many queries
//! attend to keys and values that are made for them. Both give the same.
//!
//! Ports the attention of `mlx_lm/models/deepseek_v2.py` and `deepseek_v3.py` @ 0.32.2. Differences: `rope_interleave` is
//! read, as in transformers, and quantized latents can be attended to.

mod config;

use mlxlm_cache::{Attend, CacheKind, Offset, Reach};
use mlxlm_core::nn::{HeadLinear, Linear, Norm, Precision};
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, Dtype, module, ops};

use super::{Mixer, Rope, merge_heads, split_heads};
use crate::config::missing;
use crate::frame::Step;
use crate::{Common, Error, Result};

pub use config::LatentConfig;

/// What a block of latent attention is made of.
#[derive(Debug, Clone)]
pub struct LatentHeads {
    config: LatentConfig,
    hidden: i32,
    heads: i32,
    value: i32,
    eps: f32,
    rope: Rope,
    how: Attend,
    is_spelled: bool,
    query_scale: Option<f32>,
    latent_scale: Option<f32>,
    growth: Option<(f32, f32)>,
    out: &'static str,
    gate: Option<LatentGate>,
    maps: Precision,
    others: Precision,
}

/// How much of what the heads found goes on: the sigmoid of a map of the state, `g_proj`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatentGate {
    /// One share for each head.
    Heads,
    /// One for each value.
    Values,
}

impl LatentHeads {
    /// What the configuration says; its norms add `eps`.
    pub fn of(c: &Common, config: LatentConfig, rope: Rope, eps: f32) -> Result<Self> {
        Ok(Self {
            hidden: c.hidden_size,
            heads: c.num_attention_heads()?,
            value: config.v_head_dim.ok_or_else(|| missing("v_head_dim"))?,
            eps,
            rope,
            how: Attend::scaled(config.scale(c)),
            config,
            is_spelled: false,
            query_scale: None,
            latent_scale: None,
            growth: None,
            out: "o_proj",
            gate: None,
            maps: Precision::Any,
            others: Precision::Any,
        })
    }

    /// With the keys and values of all heads remembered, and not the latents.
    #[must_use]
    pub fn spelled(self) -> Self {
        Self { is_spelled: true, ..self }
    }

    /// With scores multiplied by one over the root of a query's width, whatever is said of stretched frequencies.
    #[must_use]
    pub fn unstretched(self) -> Self {
        let width = self.config.qk_nope_head_dim + self.config.qk_rope_head_dim;
        self.scale((width as f32).powf(-0.5))
    }

    /// With scores multiplied by `scale`.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { how: Attend { scale, ..self.how }, ..self }
    }

    /// With queries and latents multiplied by these, where there are such factors.
    #[must_use]
    pub fn factors(self, query_scale: Option<f32>, latent_scale: Option<f32>) -> Self {
        Self { query_scale, latent_scale, ..self }
    }

    /// With queries that grow with their position `t`, by `1 + beta · ln(1 + floor(t / original))` for `(beta, original)`.
    #[must_use]
    pub fn growth(self, growth: Option<(f32, f32)>) -> Self {
        Self { growth, ..self }
    }

    /// With another name of the way out.
    #[must_use]
    pub fn out(self, out: &'static str) -> Self {
        Self { out, ..self }
    }

    /// With a gate before the way out, if there is one.
    #[must_use]
    pub fn gated(self, gate: Option<LatentGate>) -> Self {
        Self { gate, ..self }
    }

    /// With the maps of single heads packed no further than `maps`, and the other projections no further than `others`; the
    /// way out may be packed as the user asks.
    #[must_use]
    pub fn keep(self, maps: Precision, others: Precision) -> Self {
        Self { maps, others, ..self }
    }
}

/// How queries are made.
#[derive(Debug)]
enum Query {
    Direct(DirectQuery),
    Narrow(NarrowQuery),
}

#[derive(Debug)]
struct DirectQuery {
    q_proj: Linear,
}

#[derive(Debug)]
struct NarrowQuery {
    q_a_proj: Linear,
    q_a_layernorm: Norm,
    q_b_proj: Linear,
}

/// How latents become keys and values.
#[derive(Debug)]
enum Spread {
    Spelled(Spelled),
    Absorbed(Absorbed),
}

#[derive(Debug)]
struct Spelled {
    kv_b_proj: Linear,
}

#[derive(Debug)]
struct Absorbed {
    embed_q: HeadLinear,
    unembed_out: HeadLinear,
}

module!(DirectQuery { q_proj });
module!(NarrowQuery { q_a_proj, q_a_layernorm, q_b_proj });
module!(
    enum Query {
        Direct,
        Narrow,
    }
);
module!(Spelled { kv_b_proj });
module!(Absorbed { embed_q, unembed_out });
module!(
    enum Spread {
        Spelled,
        Absorbed,
    }
);

impl Query {
    fn load(w: &Weights, heads: &LatentHeads) -> Result<Self> {
        let config = &heads.config;
        let queries = heads.heads * (config.qk_nope_head_dim + config.qk_rope_head_dim);
        let Some(narrow) = config.q_lora_rank else {
            let q_proj = Linear::load(&w.at("q_proj").columns(), queries, heads.hidden)?;
            return Ok(Self::Direct(DirectQuery { q_proj }));
        };
        Ok(Self::Narrow(NarrowQuery {
            q_a_proj: Linear::load_biased(&w.at("q_a_proj"), narrow, heads.hidden, config.attention_bias)?,
            q_a_layernorm: Norm::rms(&w.at("q_a_layernorm"), narrow, heads.eps)?,
            q_b_proj: Linear::load(&w.at("q_b_proj").columns(), queries, narrow)?,
        }))
    }
}

impl Spread {
    fn load(w: &Weights, heads: &LatentHeads) -> Result<Self> {
        let LatentConfig { kv_lora_rank: rank, qk_nope_head_dim: nope, .. } = heads.config;
        let (count, value) = (heads.heads, heads.value);
        if heads.is_spelled {
            let kv_b_proj = Linear::load(&w.at("kv_b_proj").columns(), count * (nope + value), rank)?;
            return Ok(Self::Spelled(Spelled { kv_b_proj }));
        }
        let w = w.keep(heads.maps);
        Ok(Self::Absorbed(Absorbed {
            embed_q: HeadLinear::load(&w.at("embed_q").columns(), count, rank, nope)?,
            unembed_out: HeadLinear::load(&w.at("unembed_out").columns(), count, value, rank)?,
        }))
    }
}

/// A block of latent attention.
#[derive(Debug)]
pub struct LatentAttention {
    query: Query,
    kv_a_proj_with_mqa: Linear,
    kv_a_layernorm: Norm,
    spread: Spread,
    g_proj: Option<Linear>,
    o_proj: Linear,
    heads: LatentHeads,
}

module!(LatentAttention { query as "", kv_a_proj_with_mqa, kv_a_layernorm, spread as "", g_proj, o_proj as heads.out });

/// The queries of a step.
#[derive(Debug)]
pub struct Queries {
    /// The part without positions, `[B, H, L, n]`.
    pub nope: Array,
    /// The rotated part, `[B, H, L, p]`.
    pub pe: Array,
    /// What they were made of, `[B, L, q_lora_rank]`, if they went through a narrow width.
    pub narrow: Option<Array>,
}

impl LatentAttention {
    /// The block at `w`.
    pub fn load(w: &Weights, heads: LatentHeads) -> Result<Self> {
        let LatentConfig { kv_lora_rank: rank, qk_rope_head_dim: rope, .. } = heads.config;
        let (hidden, width, biased) = (heads.hidden, heads.heads * heads.value, heads.config.attention_bias);
        let kept = w.keep(heads.others);
        let gates = heads.gate.map(|gate| match gate {
            LatentGate::Heads => heads.heads,
            LatentGate::Values => width,
        });
        let gate = |outputs| Linear::load(&kept.at("g_proj").columns(), outputs, hidden);
        Ok(Self {
            query: Query::load(&kept, &heads)?,
            kv_a_proj_with_mqa: Linear::load_biased(&kept.at("kv_a_proj_with_mqa"), rank + rope, hidden, biased)?,
            kv_a_layernorm: Norm::rms(&w.at("kv_a_layernorm"), rank, heads.eps)?,
            spread: Spread::load(w, &heads)?,
            g_proj: gates.map(gate).transpose()?,
            o_proj: Linear::load_biased(&w.at(heads.out).rows(), hidden, width, biased)?,
            heads,
        })
    }

    /// The queries of `x`, `[B, L, D]`, from the position `offset` on.
    pub fn queries(&self, x: &Array, offset: &Offset) -> Result<Queries> {
        let (all, narrow) = match &self.query {
            Query::Direct(query) => (query.q_proj.forward(x)?, None),
            Query::Narrow(query) => {
                let narrow = query.q_a_layernorm.forward(&query.q_a_proj.forward(x)?)?;
                (query.q_b_proj.forward(&narrow)?, Some(narrow))
            }
        };
        let mut all = split_heads(&scaled(all, self.heads.query_scale)?, self.heads.heads)?;
        if let Some(growth) = self.heads.growth {
            all = all.multiply(grown(x.dim(1), offset, growth)?.as_dtype(all.dtype())?)?;
        }
        let parts = ops::split_at_indices(&all, &[self.heads.config.qk_nope_head_dim], -1)?;
        Ok(Queries { nope: parts[0].clone(), pe: self.heads.rope.forward(&parts[1], offset)?, narrow })
    }

    /// The latents `[B, 1, L, r]` of `x`, and the rotated part of the keys `[B, 1, L, p]`.
    pub fn latents(&self, x: &Array, offset: &Offset) -> Result<[Array; 2]> {
        let both = self.kv_a_proj_with_mqa.forward(x)?;
        let parts = ops::split_at_indices(&both, &[self.heads.config.kv_lora_rank], -1)?;
        let latent = scaled(self.kv_a_layernorm.forward(&parts[0])?, self.heads.latent_scale)?;
        Ok([latent.expand_dims(1)?, self.heads.rope.forward(&parts[1].expand_dims(1)?, offset)?])
    }

    /// How it attends.
    pub fn how(&self) -> &Attend {
        &self.heads.how
    }

    /// Attends to remembered latents, where `bias` shows them if there is one: see [`Attend::bias`].
    ///
    /// # Shapes
    /// - `reach`: latents `[B, 1, S, r]` and rotated parts `[B, 1, S, p]`, result: `[B, L, D]`
    pub fn attend(&self, q: &Queries, reach: &Reach, bias: Option<Array>, step: &Step) -> Result<Array> {
        Ok(self.o_proj.forward(&merge_heads(&self.found(q, reach, bias, step)?)?)?)
    }

    /// What each head found among remembered latents, `[B, H, L, e]`.
    fn found(&self, q: &Queries, reach: &Reach, bias: Option<Array>, step: &Step) -> Result<Array> {
        let how = Attend { bias, ..self.heads.how.clone() };
        let Spread::Absorbed(maps) = &self.spread else {
            return Err(Error::config("keys and values are remembered here, and no latents"));
        };
        match reach.plain()?.filter(|_| q.nope.dim(2) > 1) {
            Some([latent, k_pe]) => {
                let latent = latent.squeeze_axes(&[1])?;
                let (keys, values) = (maps.embed_q.spread_back(&latent)?, maps.unembed_out.spread(&latent)?);
                let reach = reach.with(&self.whole(&keys, &k_pe)?, &values)?;
                step.look(&reach, &self.whole(&q.nope, &q.pe)?, &how)
            }
            None => {
                let out = step.look_latent(reach, &maps.embed_q.forward(&q.nope)?, &q.pe, &how)?;
                Ok(maps.unembed_out.forward(&out)?)
            }
        }
    }

    /// The way out of what the heads found, `[B, H, L, e]`, in answer to `x`, `[B, L, D]`.
    fn leave(&self, found: &Array, x: &Array) -> Result<Array> {
        let out = merge_heads(found)?;
        let Some(gate) = &self.g_proj else { return Ok(self.o_proj.forward(&out)?) };
        let share = ops::sigmoid(gate.forward(x)?.as_dtype(Dtype::Float32)?)?.as_dtype(out.dtype())?;
        let shape = [x.dim(0), x.dim(1), share.dim(-1), out.dim(-1) / share.dim(-1)];
        let gated = out.reshape(&shape)?.multiply(share.expand_dims(-1)?)?;
        Ok(self.o_proj.forward(&gated.reshape(out.shape())?)?)
    }

    /// Both parts of queries or keys; a rotated part of one head is that of all.
    fn whole(&self, nope: &Array, pe: &Array) -> Result<Array> {
        let pe = ops::broadcast_to(pe, &[pe.dim(0), self.heads.heads, pe.dim(2), pe.dim(3)])?;
        Ok(ops::concatenate(&[nope, &pe], -1)?)
    }
}

impl Mixer for LatentAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let offset = step.offset();
        let q = self.queries(x, &offset)?;
        let [latent, k_pe] = self.latents(x, &offset)?;
        let Spread::Spelled(Spelled { kv_b_proj }) = &self.spread else {
            let reach = step.remember(&latent, &k_pe, &self.heads.how)?;
            return self.leave(&self.found(&q, &reach, None, step)?, x);
        };
        let kv = split_heads(&kv_b_proj.forward(&latent.squeeze_axes(&[1])?)?, self.heads.heads)?;
        let parts = ops::split_at_indices(&kv, &[self.heads.config.qk_nope_head_dim], -1)?;
        let keys = self.whole(&parts[0], &k_pe)?;
        let found = step.attend(&self.whole(&q.nope, &q.pe)?, &keys, &parts[1], &self.heads.how)?;
        self.leave(&found, x)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::Kv]
    }
}

fn scaled(x: Array, scale: Option<f32>) -> Result<Array> {
    match scale {
        None => Ok(x),
        Some(scale) => Ok(x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?)?),
    }
}

/// `1 + beta · ln(1 + floor(t / original))` for each position `t`: `[L, 1]`, or `[B, 1, L, 1]` where rows or tokens are elsewhere.
fn grown(len: i32, offset: &Offset, (beta, original): (f32, f32)) -> Result<Array> {
    let steps = ops::arange::<i32, f32>(0, len, None)?.expand_dims(1)?;
    let positions = match offset {
        Offset::Same(offset) => steps.add(Array::from_f32(*offset as f32))?,
        Offset::Rows(rows) => steps.add(rows.reshape(&[-1, 1, 1, 1])?)?,
        Offset::Tokens(places) => places.expand_dims_axes(&[1, 3])?.as_dtype(Dtype::Float32)?,
    };
    let spans = ops::floor(positions.divide(Array::from_f32(original))?)?;
    let growth = spans.add(Array::from_f32(1.0))?.log()?.multiply(Array::from_f32(beta))?;
    Ok(growth.add(Array::from_f32(1.0))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_grow_with_each_span_of_positions() {
        let grown = |offset: &Offset| grown(3, offset, (0.5, 4.0)).unwrap();
        let by = 1.0 + 0.5 * 2.0_f32.ln();
        assert_eq!(grown(&Offset::Same(3)).to_vec_exact::<f32>().unwrap(), [1.0, by, by]);
        let rows = grown(&Offset::Rows(Array::from_slice(&[0, 3], &[2])));
        assert_eq!(rows.shape(), [2, 1, 3, 1]);
        assert_eq!(rows.to_vec_exact::<f32>().unwrap(), [1.0, 1.0, 1.0, 1.0, by, by]);
    }
}
