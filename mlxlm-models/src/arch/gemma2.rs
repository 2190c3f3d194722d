//! Gemma 2: norms before and after each half of a block, bounded scores and bounded logits (arXiv:2408.00118).
//!
//! Ports `mlx_lm/models/gemma2.py` @ 0.32.2. Unusual: norm weights are stored minus one, embeddings are scaled by √D, and the
//! sliding windows of the paper are not applied.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gemma2"]);

/// What Gemma 2 adds to [`Common`].
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    attn_logit_softcapping: f32,
    final_logit_softcapping: f32,
    query_pre_attn_scalar: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { attn_logit_softcapping: 50.0, final_logit_softcapping: 30.0, query_pre_attn_scalar: 144.0 }
    }
}

/// A block with four norms.
#[derive(Debug)]
struct Gemma2Block {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    pre_feedforward_layernorm: Norm,
    mlp: Mlp,
    post_feedforward_layernorm: Norm,
}

module!(Gemma2Block {
    input_layernorm,
    self_attn,
    post_attention_layernorm,
    pre_feedforward_layernorm,
    mlp,
    post_feedforward_layernorm,
});

impl DecoderConfig for Config {
    type Block = Gemma2Block;

    fn check(&self, _c: &Common) -> Result<()> {
        positive("attn_logit_softcapping", self.attn_logit_softcapping)?;
        positive("final_logit_softcapping", self.final_logit_softcapping)?;
        positive("query_pre_attn_scalar", self.query_pre_attn_scalar)
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Gemma2Block> {
        let norm = |name: &str| Norm::rms_plus_one(&w.at(name), c.hidden_size, c.rms_norm_eps);
        let heads = Heads::grouped(c, Rope::plain(c.head_dim(), c.rope_theta(), c.rope_traditional))
            .scale(self.query_pre_attn_scalar.powf(-0.5))
            .softcap(self.attn_logit_softcapping);
        Ok(Gemma2Block {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size, Activation::GeluApprox, false)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
        })
    }

    fn skeleton(&self, w: &Weights, c: &Common) -> Result<Skeleton> {
        let norm = Norm::rms_plus_one(&w.at("norm"), c.hidden_size, c.rms_norm_eps)?;
        Ok(Skeleton {
            head: Head::Tied,
            embedding_scale: Some((c.hidden_size as f32).sqrt()),
            logit_softcap: Some(self.final_logit_softcapping),
            ..Skeleton::new(c, norm)
        })
    }
}

impl Block for Gemma2Block {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let r = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let attended = self.post_attention_layernorm.forward(&r)?;
        let [h, r] = self.pre_feedforward_layernorm.forward_sum(x, &attended)?;
        let r = self.mlp.forward(&r)?;
        Ok(h.add(self.post_feedforward_layernorm.forward(&r)?)?)
    }

    fn cache(&self) -> CacheKind {
        self.self_attn.cache()
    }
}
