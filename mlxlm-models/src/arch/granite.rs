//! Granite 3: Llama with factors of the embeddings, the scores, the halves of each block and the logits (IBM, 2024).
//!
//! Ports `mlx_lm/models/granite.py` @ 0.32.2. Unusual: the ways out of both halves and the head are packed to 8 bits at most,
//! since their largest numbers are too small for the scales of fewer bits. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["granite"]).defaults(|| json!({"tie_word_embeddings": true}));

/// What Granite adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    logits_scaling: f32,
    attention_multiplier: f32,
    embedding_multiplier: f32,
    residual_multiplier: f32,
    attention_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("logits_scaling", self.logits_scaling)?;
        positive("attention_multiplier", self.attention_multiplier)?;
        positive("embedding_multiplier", self.embedding_multiplier)?;
        positive("residual_multiplier", self.residual_multiplier)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame {
            head_precision: Precision::Eight,
            embedding_scale: Some(self.embedding_multiplier),
            logit_scale: Some(1.0 / self.logits_scaling),
            ..Frame::new(c, Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?)
        })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads =
            Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias)).scale(self.attention_multiplier);
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let attention = Attention::load(&w.at("self_attn"), heads)?.keep_out(Precision::Eight);
        let mlp =
            Mlp::gated_biased(&w.at("mlp"), c.hidden_size, width, act, self.mlp_bias)?.keep_down(Precision::Eight);
        Ok(Box::new(PreNormBlock::with(w, c, attention, mlp)?.branch_scale(self.residual_multiplier)))
    }
}
