//! The block of Llama and its many kin: a norm before attention, a norm before the gated MLP, each added to its input.

use mlxlm_cache::CacheKind;
use mlxlm_core::nn::Norm;
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module};

use super::{Activation, Attention, Heads, Mlp};
use crate::decoder::{Block, Step};
use crate::{Common, Result};

/// Attention and MLP, each behind a root-mean-square norm.
#[derive(Debug)]
pub struct PreNormBlock {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: Mlp,
}

module!(PreNormBlock { input_layernorm, self_attn, post_attention_layernorm, mlp });

impl PreNormBlock {
    /// The block at `w` with a SwiGLU MLP without biases.
    pub fn load(w: &Weights, c: &Common, heads: Heads) -> Result<Self> {
        let mlp = Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size, Activation::Silu, false)?;
        Self::with(w, c, heads, mlp)
    }

    /// The block at `w` with an MLP of its own.
    pub fn with(w: &Weights, c: &Common, heads: Heads, mlp: Mlp) -> Result<Self> {
        let norm = |name: &str| Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp,
        })
    }
}

impl Block for PreNormBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let [h, normed] = self.post_attention_layernorm.forward_sum(x, &attended)?;
        Ok(h.add(self.mlp.forward(&normed)?)?)
    }

    fn cache(&self) -> CacheKind {
        self.self_attn.cache()
    }
}
