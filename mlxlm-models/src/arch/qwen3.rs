//! Qwen3: Llama with a norm over each head of queries and keys (arXiv:2505.09388).
//!
//! Ports `mlx_lm/models/qwen3.py` @ 0.32.2.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen3"]);

/// Qwen3 adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    type Block = PreNormBlock;

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<PreNormBlock> {
        PreNormBlock::load(w, c, Heads::grouped(c, Rope::from(c)?).qk_norm(Norm::rms, c.rms_norm_eps))
    }
}
