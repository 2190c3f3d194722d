//! Command R: attention and MLP side by side behind one norm.
//!
//! Ports `mlx_lm/models/cohere.py` @ 0.32.2. Unusual: neighbouring pairs are rotated, the norms of queries and keys have weights
//! of their own for each head, and the logits are scaled. Differences: `hidden_act` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["cohere"]).defaults(|| {
    json!({
        "attention_bias": false, "hidden_size": 8192, "intermediate_size": 22528, "layer_norm_bias": false,
        "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "num_attention_heads": 64, "num_hidden_layers": 40,
        "num_key_value_heads": 64, "rope_theta": 8e6, "rope_traditional": true, "use_qk_norm": false,
        "vocab_size": 256_000,
    })
});

/// What Cohere adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    layer_norm_bias: bool,
    layer_norm_eps: f32,
    logit_scale: f32,
    use_qk_norm: bool,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_eps, self.layer_norm_bias)?)
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("layer_norm_eps", self.layer_norm_eps)?;
        positive("logit_scale", self.logit_scale)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = self.norm(&w.at(self.names().norm), c)?;
        Ok(Frame { head: Head::Tied, logit_scale: Some(self.logit_scale), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let mut heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        if self.use_qk_norm {
            heads = heads.spread_qk_norm(Norm::layer_shaped, self.layer_norm_eps);
        }
        let norm = self.norm(&w.at(BlockNames::PRE.pre_mixer), c)?;
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(ParallelBlock::new(BlockNames::PRE, norm, None, attention, Mlp::of(&w.at("mlp"), c)?)))
    }
}
