//! GPT-J: attention and MLP side by side behind one layer norm, rotary positions (Wang and Komatsuzaki, 2021).
//!
//! Ports `mlx_lm/models/gptj.py` @ 0.32.2. Unusual: neighbouring pairs of the first `rotary_dim` dimensions are rotated, 64 of
//! them if the configuration has no number; attention has no biases, and all else has. Differences: `n_inner` and
//! `activation_function` act, as in transformers.

use super::gpt2::{ALIASES, NAMES};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["gptj"]).aliases(ALIASES).defaults(|| {
    json!({
        "layer_norm_epsilon": 1e-5, "hidden_size": 4096, "max_position_embeddings": 2048, "num_attention_heads": 16,
        "num_hidden_layers": 28, "rotary_dim": 0, "scale_attn_weights": true, "vocab_size": 50400,
    })
});

/// What GPT-J adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    layer_norm_epsilon: f32,
    rotary_dim: i32,
    scale_attn_weights: bool,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_epsilon, true)?)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { root: "model", table: "model.wte", stack: "model.h", norm: "model.ln_f", head: "lm_head" }
    }

    fn check(&self, c: &Common) -> Result<()> {
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        unsupported(c, "scale_attn_weights", !self.scale_attn_weights)?;
        unsupported(c, "tie_word_embeddings", c.tie_word_embeddings)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let buffers = ["**.attn.bias", "**.attn.masked_bias"];
        Ok(buffers.map(Rule::Drop).into_iter().chain([Rule::Rename("transformer", "model")]).collect())
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = self.norm(&w.at(self.names().norm), c)?;
        Ok(Frame { head: Head::Own { biased: true }, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let dim = c.heads()?.dim;
        let rotated = if self.rotary_dim == 0 { dim.min(64) } else { self.rotary_dim };
        within("rotary_dim", rotated, dim)?;
        let rope = Rope::over(&c.rope().clone().traditional(), rotated)?;
        let heads = Heads::grouped(c, rope)?.names(AttentionNames { out: "out_proj", ..AttentionNames::LLAMA });
        let parts = MlpNames { gate: "", up: "fc_in", down: "fc_out" };
        let (width, act) = (c.intermediate_size_or(4 * c.hidden_size)?, c.activation(Activation::GeluApprox)?);
        let mlp = Mlp::plain(&w.at(NAMES.mlp), parts, c.hidden_size, width, act, true)?;
        let attention = Attention::load(&w.at(NAMES.mixer), heads)?;
        Ok(Box::new(ParallelBlock::new(NAMES, self.norm(&w.at(NAMES.pre_mixer), c)?, None, attention, mlp)))
    }
}
