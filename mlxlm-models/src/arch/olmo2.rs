//! OLMo 2: norms of what the halves of a block give, and of all queries and all keys of a token (arXiv:2501.00656).
//!
//! Ports `mlx_lm/models/olmo2.py` @ 0.32.2. Unusual: the head is tied unless the configuration says otherwise.
//! Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["olmo2"]).defaults(|| json!({"tie_word_embeddings": true}));

/// What OLMo 2 adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .bias(Bias::all(self.attention_bias))
            .whole_qk_norm(Norm::rms, c.rms_norm_eps()?);
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::gated_biased(&w.at("mlp"), c.hidden_size, width, act, self.mlp_bias)?;
        Ok(Box::new(PostNormBlock::with(w, c, Attention::load(&w.at("self_attn"), heads)?, mlp)?))
    }
}
