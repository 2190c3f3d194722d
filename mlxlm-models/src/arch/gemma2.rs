//! Gemma 2: norms before and after each half of a block, bounded scores and bounded logits (arXiv:2408.00118).
//!
//! Ports `mlx_lm/models/gemma2.py` @ 0.32.2. Unusual: norm weights are stored minus one, embeddings are scaled by √D,
//! and the head is tied unless the configuration says otherwise and the checkpoint has one.
//! Differences: every other layer slides, as in the paper and in transformers, and `rope_scaling` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gemma2"]).defaults(|| {
    json!({
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 144.0,
        "sliding_window": 4096, "tie_word_embeddings": true,
    })
});

/// What Gemma 2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attn_logit_softcapping: f32,
    final_logit_softcapping: f32,
    query_pre_attn_scalar: f32,
    #[serde(default)]
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        positive("attn_logit_softcapping", self.attn_logit_softcapping)?;
        positive("final_logit_softcapping", self.final_logit_softcapping)?;
        positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        unsupported(c, "attention_bias", self.attention_bias)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms_plus_one(&w.at("model.norm"), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame {
            head: Head::tied_unless_stored(c),
            embedding_scale: Some((c.hidden_size as f32).sqrt()),
            logit_softcap: Some(self.final_logit_softcapping),
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .scale(self.query_pre_attn_scalar.powf(-0.5))
            .softcap(Some(self.attn_logit_softcapping))
            .window(c.window(layer, layer.is_multiple_of(2))?);
        let norm = |w: &Weights| Ok(Norm::rms_plus_one(w, c.hidden_size, c.rms_norm_eps()?)?);
        let act = c.activation(Activation::GeluApprox)?;
        let mlp = Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size()?, act)?;
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(SandwichBlock::load(w, BlockNames::SANDWICH, norm, attention, mlp)?))
    }
}
