//! Qwen2: Llama with biases on queries, keys and values (arXiv:2407.10671).
//!
//! Ports `mlx_lm/models/qwen2.py` @ 0.32.2.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen2"])
    .rules(&[Rule::Drop("**.rotary_emb.inv_freq")])
    .defaults(|| json!({"tie_word_embeddings": true, "rope_theta": 1e6, "max_position_embeddings": 32768}));

/// Qwen2 adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    type Block = PreNormBlock;

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<PreNormBlock> {
        PreNormBlock::load(w, c, Heads::grouped(c, Rope::from(c)?).bias(true, false))
    }
}
