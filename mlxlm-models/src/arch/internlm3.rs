//! InternLM3: Llama with biases if the configuration says so (arXiv:2403.17297 describes its predecessor).
//!
//! Ports `mlx_lm/models/internlm3.py` @ 0.32.2. Unusual: `qkv_bias` is that of the way out too, and `bias` that of the MLP.
//! Differences: every kind of `rope_scaling` acts.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["internlm3"]).defaults(|| json!({"max_position_embeddings": 32768}));

/// What InternLM3 adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    bias: bool,
    qkv_bias: bool,
}

impl DecoderConfig for Config {
    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::Drop("**.attention.rope.inv_freq")])
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.qkv_bias));
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.bias)?))
    }
}
