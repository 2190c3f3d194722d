//! Qwen3: Llama with a norm over each head of queries and keys (arXiv:2505.09388).
//!
//! Ports `mlx_lm/models/qwen3.py` @ 0.32.2. Differences: `use_sliding_window` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen3"]);

/// Qwen3 adds nothing to [`Common`] that is supported.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "attention_bias", self.attention_bias)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.qk_norm(Norm::rms, c.rms_norm_eps()?);
        Ok(Box::new(PreNormBlock::load(w, c, heads.window(c.window_above(layer)?))?))
    }
}
