//! Qwen2: Llama with biases on queries, keys and values (arXiv:2407.10671).
//!
//! Ports `mlx_lm/models/qwen2.py` @ 0.32.2. Differences: `use_sliding_window` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen2"])
    .defaults(|| json!({"tie_word_embeddings": true, "rope_theta": 1e6, "max_position_embeddings": 32768}));

/// Qwen2 adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::Qkv).window(c.window_above(layer)?);
        Ok(Box::new(PreNormBlock::load(w, c, heads)?))
    }
}
