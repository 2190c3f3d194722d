//! StarCoder (GPT-BigCode): GPT-2 whose query heads share one head of keys and values (arXiv:2305.06161).
//!
//! Ports `mlx_lm/models/gpt_bigcode.py` @ 0.32.2. Differences: `activation_function` acts, as in transformers; a sequence beyond
//! the last position is an error.

use super::gpt2::{ALIASES, ATTENTION, MLP, NAMES, Positions};
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["gpt_bigcode"]).aliases(ALIASES).defaults(|| {
        json!({
            "attention_bias": true, "layer_norm_epsilon": 1e-5, "mlp_bias": true, "multi_query": true,
            "scale_attn_weights": true, "tie_word_embeddings": true,
        })
    });

/// What GPT-BigCode adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    layer_norm_epsilon: f32,
    mlp_bias: bool,
    multi_query: bool,
    scale_attn_weights: bool,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names {
            root: "transformer",
            table: "transformer.wte",
            stack: "transformer.h",
            norm: "transformer.ln_f",
            head: "lm_head",
        }
    }

    fn check(&self, c: &Common) -> Result<()> {
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        unsupported(c, "scale_attn_weights", !self.scale_attn_weights)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::layer(&w.at(self.names().norm), c.hidden_size, self.layer_norm_epsilon, true)?;
        let entry = Positions::load(&w.at(self.names().root), c)?;
        Ok(Frame { entry: Some(Box::new(entry)), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let HeadCounts { count, dim, .. } = c.heads()?;
        let counts = HeadCounts::checked(count, if self.multi_query { 1 } else { count }, dim)?;
        let heads = Heads::of(c.hidden_size, counts, Rope::none()).fused().names(ATTENTION);
        let attention = Attention::load(&w.at(NAMES.mixer), heads.bias(Bias::all(self.attention_bias)))?;
        let (width, act) = (c.intermediate_size_or(4 * c.hidden_size)?, c.activation(Activation::Gelu)?);
        let mlp = Mlp::plain(&w.at(NAMES.mlp), MLP, c.hidden_size, width, act, self.mlp_bias)?;
        Ok(Box::new(PreNormBlock::layer_normed(w, c, NAMES, self.layer_norm_epsilon, attention, mlp)?))
    }
}
