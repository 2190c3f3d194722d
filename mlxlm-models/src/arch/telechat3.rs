//! TeleChat3: Llama with a kind of YaRN under a name of its own (arXiv:2507.18013 describes its
//! predecessor).
//!
//! Ports `mlx_lm/models/telechat3.py` @ 0.32.2. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["telechat3"]);

/// What TeleChat3 adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.mlp_bias)?))
    }
}
