//! Llama: pre-norm decoder, rotary positions, grouped queries, gated MLP (arXiv:2302.13971, arXiv:2407.21783).
//!
//! Ports `mlx_lm/models/llama.py` @ 0.32.2. Unusual: some layers may attend through a sliding window, and the head is tied
//! unless the configuration says otherwise. Differences: all layers of `mistral` slide if there is a `sliding_window`
//! (arXiv:2310.06825), as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["llama", "iquestcoder", "mistral", "xverse"])
    .defaults(|| json!({"tie_word_embeddings": true}));

/// What Llama adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        let window = match c.model_type == "mistral" || c.layer_type(layer)?.is_some() {
            true => c.window(layer, true)?,
            false => None,
        };
        Ok(Box::new(PreNormBlock::biased(w, c, heads.window(window), self.mlp_bias)?))
    }
}
