//! Llama 4, the text model: three layers that attend within chunks to one that attends to everything and knows no positions,
//! and experts in some layers, one for each token (Meta, 2025).
//!
//! Ports `mlx_lm/models/llama4.py` @ 0.32.2. Unusual:
//! - Neighbouring pairs are rotated; heads are normed after that, without weights and with an `eps` of 1e-6.
//! - Where there are no positions, queries grow with theirs.
//! - The share of an expert, a sigmoid, multiplies what goes into it.
//!
//! Differences, after transformers: `no_rope_layers` and `moe_layers` act, and a token may have several experts.

use mlxlm_core::ops::indexing::{NewAxis, TryIndexOp};
use serde_json::Value;

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(&["llama4"], "language_model", |_| Ok(&TEXT), rules);

/// The text model; alone, files call another one so.
static TEXT: Architecture = Architecture::decoder::<Config>(&["llama4_text"]).defaults(|| {
    json!({
        "attention_bias": false, "attn_scale": 0.1, "attn_temperature_tuning": 4, "floor_scale": 8192.0,
        "moe_layers": [], "no_rope_layers": [], "rope_traditional": true,
    })
});

fn rules() -> Vec<Rule> {
    let mut rules = Rule::language_model();
    rules.push(Rule::CutExperts { from: "**.feed_forward.experts", to: "**.feed_forward.experts", transposed: true });
    rules
}

/// What Llama 4 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    attention_chunk_size: i32,
    attn_scale: f32,
    /// A switch, which some files write as a number.
    attn_temperature_tuning: Value,
    floor_scale: f32,
    interleave_moe_layer_step: i32,
    intermediate_size_mlp: i32,
    moe_layers: Vec<usize>,
    /// One for each layer: zero for those that know no positions.
    no_rope_layers: Vec<i32>,
    num_experts_per_tok: i32,
    num_local_experts: i32,
    use_qk_norm: bool,
}

impl Config {
    /// Every fourth layer knows no positions.
    fn rotates(&self, layer: usize) -> bool {
        self.no_rope_layers.get(layer).map_or((layer + 1) % 4 != 0, |&rotates| rotates != 0)
    }

    /// The last layer of each step has experts.
    fn is_sparse(&self, layer: usize) -> bool {
        match self.moe_layers.is_empty() {
            true => (layer as i32 + 1) % self.interleave_moe_layer_step == 0,
            false => self.moe_layers.contains(&layer),
        }
    }

    fn is_tuned(&self) -> bool {
        match &self.attn_temperature_tuning {
            Value::Bool(is_on) => *is_on,
            other => other.as_f64() != Some(0.0),
        }
    }

    fn attention(&self, w: &Weights, c: &Common, layer: usize) -> Result<TunedAttention> {
        let rotates = self.rotates(layer);
        let rope = if rotates { Rope::from(c)? } else { Rope::none() };
        let mut heads = Heads::grouped(c, rope)?.bias(Bias::all(self.attention_bias));
        if rotates {
            heads = heads.chunk(Some(self.attention_chunk_size));
        }
        if rotates && self.use_qk_norm {
            heads = heads.rotated_qk_norm(|_, _, eps| Ok(Norm::rms_plain(eps)), 1e-6);
        }
        let growth = (!rotates && self.is_tuned()).then_some((self.attn_scale, self.floor_scale));
        Ok(TunedAttention { parts: Attention::load(w, heads)?, growth })
    }

    fn experts(&self, w: &Weights, c: &Common) -> Result<PushedExperts> {
        let names = MoeNames { gate: "router", ..MoeNames::QWEN };
        let (count, act) = (self.num_local_experts, c.activation(Activation::Silu)?);
        let sizes = (c.hidden_size, c.intermediate_size()?);
        let routing = Routing::top(self.num_experts_per_tok, Score::Sigmoid);
        Ok(PushedExperts {
            router: Router::load(w, names, (c.hidden_size, count), routing)?,
            experts: Experts::gated(&w.at("experts"), count, sizes, act, false)?,
            shared_expert: Mlp::of(&w.at("shared_expert"), c)?,
        })
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("attention_chunk_size", self.attention_chunk_size, i32::MAX)?;
        within("interleave_moe_layer_step", self.interleave_moe_layer_step, i32::MAX)?;
        within("intermediate_size_mlp", self.intermediate_size_mlp, MAX_WIDTH)?;
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        positive("floor_scale", self.floor_scale)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames { mlp: "feed_forward", ..BlockNames::PRE };
        let attention = self.attention(&w.at(names.mixer), c, layer)?;
        let at = w.at(names.mlp);
        if self.is_sparse(layer) {
            return Ok(Box::new(PreNormBlock::named(w, c, names, attention, self.experts(&at, c)?)?));
        }
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated(&at, c.hidden_size, self.intermediate_size_mlp, act)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, attention, mlp)?))
    }
}

/// Attention whose queries grow with the logarithm of their position.
#[derive(Debug)]
struct TunedAttention {
    parts: Attention,
    /// How much they grow, and with how many positions.
    growth: Option<(f32, f32)>,
}

module!(TunedAttention { parts as "" });

impl Mixer for TunedAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let Some((scale, period)) = self.growth else { return self.parts.forward(x, step) };
        let [q, k, v] = self.parts.prepare(x, step)?;
        // The first token is at one.
        let places = ops::arange::<f32, f32>(1.0, 1.0 + q.dim(2) as f32, None)?;
        let places = match step.offset() {
            Offset::Same(start) => places.add(Array::from_f32(start as f32))?.expand_dims(1)?,
            Offset::Rows(starts) => {
                places.add(starts.try_index((.., NewAxis))?)?.try_index((.., NewAxis, .., NewAxis))?
            }
            Offset::Tokens(own) => {
                own.as_dtype(Dtype::Float32)?.add(Array::from_f32(1.0))?.expand_dims_axes(&[1, 3])?
            }
        };
        let periods = places.divide(Array::from_f32(period))?.floor()?;
        let factor = periods.log1p()?.multiply(Array::from_f32(scale))?.add(Array::from_f32(1.0))?;
        let q = q.multiply(factor)?.as_dtype(q.dtype())?;
        self.parts.leave(&merge_heads(&step.attend(&q, &k, &v, &self.parts.how())?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.parts.caches()
    }
}

/// Experts whose input is multiplied by their share, and an MLP that answers every token.
#[derive(Debug)]
struct PushedExperts {
    router: Router,
    experts: Experts,
    shared_expert: Mlp,
}

module!(PushedExperts { router as "", experts, shared_expert });

impl FeedForward for PushedExperts {
    fn forward(&self, x: &Array) -> Result<Array> {
        let (chosen, shares) = self.router.forward(x)?;
        let pushed = x.expand_dims(-2)?.multiply(shares.as_dtype(x.dtype())?.expand_dims(-1)?)?;
        let answers = self.experts.forward(&pushed, &chosen.expand_dims(-1)?)?;
        Ok(answers.sum_axes(&[-3, -2], false)?.add(self.shared_expert.forward(x)?)?)
    }
}
