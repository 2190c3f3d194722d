//! Phi-3: Llama with fused projections and a stretched rotation of a part of each head (arXiv:2404.14219).
//!
//! Ports `mlx_lm/models/phi3.py` @ 0.32.2. Unusual: the original length stands beside `rope_scaling` and not in it.
//! Differences: short factors for short sequences, and `sliding_window` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["phi3"])
    .defaults(|| json!({"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}));

/// Phi-3 adds nothing to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::partial(c)?)?.fused().window(c.window(layer, true)?);
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::fused(&w.at("mlp"), MlpNames::FUSED, c.hidden_size, width, act)?;
        Ok(Box::new(PreNormBlock::with(w, c, Attention::load(&w.at("self_attn"), heads)?, mlp)?))
    }
}
