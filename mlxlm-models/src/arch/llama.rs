//! Llama: pre-norm decoder, rotary positions, grouped queries, gated MLP (arXiv:2302.13971, arXiv:2407.21783).
//!
//! Ports `mlx_lm/models/llama.py` @ 0.32.2. Unusual: some layers may attend through a sliding window, and the head is tied
//! unless the configuration says otherwise.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["llama", "iquestcoder", "mistral", "xverse"])
    .rules(&[Rule::Drop("**.rotary_emb.inv_freq")])
    .defaults(|| json!({"tie_word_embeddings": true}));

/// What Llama adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
    mlp_bias: bool,
    layer_types: Vec<LayerType>,
    sliding_window: Option<i32>,
}

/// How a layer attends.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

impl Config {
    /// The window of a layer, if it slides.
    fn window(&self, layer: usize) -> Result<Option<i32>> {
        match (self.layer_types.get(layer), self.sliding_window) {
            (Some(LayerType::SlidingAttention), Some(window)) if window > 0 => Ok(Some(window)),
            (Some(LayerType::SlidingAttention), _) => {
                Err(Error::config("`layer_types` has sliding attention, and `sliding_window` is not a positive number"))
            }
            _ => Ok(None),
        }
    }
}

impl DecoderConfig for Config {
    type Block = PreNormBlock;

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<PreNormBlock> {
        let heads = Heads::grouped(c, Rope::from(c)?)
            .bias(self.attention_bias, self.attention_bias)
            .window(self.window(layer)?);
        let mlp = Mlp::gated(&w.at("mlp"), c.hidden_size, c.intermediate_size, Activation::Silu, self.mlp_bias)?;
        PreNormBlock::with(w, c, heads, mlp)
    }
}
