//! Seed-OSS: Llama whose projections into and out of attention have or lack biases by themselves (ByteDance Seed, 2025).
//!
//! Ports `mlx_lm/models/seed_oss.py` @ 0.32.2. Unusual: the head is tied unless the configuration says otherwise.
//! Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["seed_oss"]).defaults(|| json!({"tie_word_embeddings": true}));

/// What Seed-OSS adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    attention_out_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::of(self.attention_bias, self.attention_out_bias));
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.mlp_bias)?))
    }
}
