//! Command R7B: attention and MLP side by side behind one norm, three sliding layers to one full (arXiv:2504.00698).
//!
//! Ports `mlx_lm/models/cohere2.py` @ 0.32.2. Unusual: only the sliding layers know positions, the norm is a layer norm, and
//! the logits are scaled. Differences: `layer_types` of newer configurations are read.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["cohere2"])
    .aliases(&[("_sliding_window_pattern", "sliding_window_pattern")])
    .defaults(|| {
        json!({
            "hidden_size": 4096, "head_dim": 128, "num_hidden_layers": 32, "intermediate_size": 14336,
            "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 5e4, "vocab_size": 256_000,
            "layer_norm_eps": 1e-5, "tie_word_embeddings": true, "logit_scale": 0.0625, "sliding_window": 4096, "sliding_window_pattern": 4,
        })
    });

/// What Cohere 2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    layer_norm_eps: f32,
    #[serde(default)]
    layer_norm_bias: bool,
    logit_scale: f32,
    #[serde(default)]
    attention_bias: bool,
    sliding_window_pattern: i32,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_eps, self.layer_norm_bias)?)
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("sliding_window_pattern", self.sliding_window_pattern, i32::MAX)?;
        positive("logit_scale", self.logit_scale)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = self.norm(&w.at("model.norm"), c)?;
        Ok(Frame { head: Head::tied_unless_stored(c), logit_scale: Some(self.logit_scale), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        // The last layer of each group attends to everything, and knows no positions.
        let slides = c.slides(layer, (layer as i32 + 1) % self.sliding_window_pattern != 0)?;
        let rope = match slides {
            true => Rope::over(&c.rope().clone().traditional(), c.heads()?.dim)?,
            false => Rope::none(),
        };
        let heads = Heads::grouped(c, rope)?.bias(Bias::all(self.attention_bias)).window(c.window(layer, slides)?);
        let norm = self.norm(&w.at(BlockNames::PRE.pre_mixer), c)?;
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(ParallelBlock::new(BlockNames::PRE, norm, None, attention, Mlp::of(&w.at("mlp"), c)?)))
    }
}
