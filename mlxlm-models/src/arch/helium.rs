//! Helium: Llama whose neighbouring pairs are rotated (Kyutai, 2025).
//!
//! Ports `mlx_lm/models/helium.py` @ 0.32.2. Unusual: `attention_bias` is that of queries, keys and values only. Differences:
//! `head_dim` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["helium"]);

/// What Helium adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let rope = Rope::over(&c.rope().clone().traditional(), c.heads()?.dim)?;
        let heads = Heads::grouped(c, rope)?.bias(Bias::of(self.attention_bias, false));
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.mlp_bias)?))
    }
}
