//! BitNet b1.58: ternary weights, and a norm before the way out of each half (arXiv:2402.17764, arXiv:2504.12285).
//!
//! Ports `mlx_lm/models/bitnet.py` @ 0.32.2. Unusual: packed ternary weights are unpacked before they come here, into 2-bit
//! weights that are just as exact. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["bitnet"]).defaults(|| json!({"tie_word_embeddings": true}));

/// What BitNet adds to [`Common`].
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        let attention = BitNetAttention::load(&w.at("self_attn"), c, heads)?;
        Ok(Box::new(PreNormBlock::with(w, c, attention, BitNetMlp::load(&w.at("mlp"), c, self.mlp_bias)?)?))
    }
}

/// Attention with a norm before the way out.
#[derive(Debug)]
struct BitNetAttention {
    attention: Attention,
    attn_sub_norm: Norm,
}

module!(BitNetAttention { attention as "", attn_sub_norm });

impl BitNetAttention {
    fn load(w: &Weights, c: &Common, heads: Heads) -> Result<Self> {
        let attn_sub_norm = Norm::rms(&w.at("attn_sub_norm"), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Self { attention: Attention::load(w, heads)?, attn_sub_norm })
    }
}

impl Mixer for BitNetAttention {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        self.attention.leave(&self.attn_sub_norm.forward(&self.attention.mix(x, step)?)?)
    }

    fn caches(&self) -> Vec<CacheKind> {
        self.attention.caches()
    }
}

/// A gated MLP with a norm before the way out.
#[derive(Debug)]
struct BitNetMlp {
    gate_proj: Linear,
    up_proj: Linear,
    ffn_sub_norm: Norm,
    down_proj: Linear,
    activation: Activation,
}

module!(BitNetMlp { gate_proj, up_proj, ffn_sub_norm, down_proj });

impl BitNetMlp {
    fn load(w: &Weights, c: &Common, biased: bool) -> Result<Self> {
        let (dims, width) = (c.hidden_size, c.intermediate_size()?);
        Ok(Self {
            gate_proj: Linear::load_biased(&w.at("gate_proj").columns(), width, dims, biased)?,
            up_proj: Linear::load_biased(&w.at("up_proj").columns(), width, dims, biased)?,
            ffn_sub_norm: Norm::rms(&w.at("ffn_sub_norm"), width, c.rms_norm_eps()?)?,
            down_proj: Linear::load_biased(&w.at("down_proj").rows(), dims, width, biased)?,
            activation: c.activation(Activation::Relu2)?,
        })
    }
}

impl FeedForward for BitNetMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = Linear::forward_all([&self.gate_proj, &self.up_proj], x)?;
        let inner = fast::gated(self.activation, &gate, &up)?;
        Ok(self.down_proj.forward(&self.ffn_sub_norm.forward(&inner)?)?)
    }
}
