//! GLM-4 and GLM-Edge: Llama with one projection for both halves of the MLP (arXiv:2406.12793).
//!
//! Ports `mlx_lm/models/glm.py` @ 0.32.2. Unusual: neighbouring pairs are rotated, and the head is tied unless the configuration
//! says otherwise. Differences: `partial_rotary_factor` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["glm"])
    .defaults(|| json!({"rope_traditional": true, "tie_word_embeddings": true}));

/// What GLM adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::partial(c)?)?.bias(Bias::of(self.attention_bias, false));
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::fused(&w.at("mlp"), MlpNames::FUSED, c.hidden_size, width, act)?;
        Ok(Box::new(PreNormBlock::with(w, c, Attention::load(&w.at("self_attn"), heads)?, mlp)?))
    }
}
