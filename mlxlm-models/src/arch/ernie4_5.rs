//! ERNIE 4.5, the dense models: Llama whose neighbouring pairs are rotated (Baidu, 2025).
//!
//! Ports `mlx_lm/models/ernie4_5.py` @ 0.32.2. Unusual: `use_bias` is that of all projections. Differences: `rope_scaling`
//! acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["ernie4_5"]);

/// What ERNIE 4.5 adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    use_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let rope = Rope::over(&c.rope().clone().traditional(), c.heads()?.dim)?;
        let heads = Heads::grouped(c, rope)?.bias(Bias::all(self.use_bias));
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.use_bias)?))
    }
}
