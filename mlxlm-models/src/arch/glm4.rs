//! GLM-4-0414: GLM-4 with norms before and after each half of a block (arXiv:2406.12793).
//!
//! Ports `mlx_lm/models/glm4.py` @ 0.32.2. Unusual: neighbouring pairs of a part of each head are rotated. Differences:
//! `rope_scaling` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["glm4"])
    .defaults(|| json!({"max_position_embeddings": 32768, "partial_rotary_factor": 0.5, "rope_traditional": true}));

/// What GLM-4 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames {
            post_mixer: "post_self_attn_layernorm",
            pre_mlp: "post_attention_layernorm",
            post_mlp: "post_mlp_layernorm",
            ..BlockNames::PRE
        };
        let norm = |w: &Weights| Ok(Norm::rms(w, c.hidden_size, c.rms_norm_eps()?)?);
        let heads = Heads::grouped(c, Rope::partial(c)?)?.bias(Bias::of(self.attention_bias, false));
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::fused(&w.at("mlp"), MlpNames::FUSED, c.hidden_size, width, act)?;
        Ok(Box::new(SandwichBlock::load(w, names, norm, Attention::load(&w.at("self_attn"), heads)?, mlp)?))
    }
}
