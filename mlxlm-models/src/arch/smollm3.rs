//! SmolLM3: Llama whose every fourth layer knows no positions (arXiv:2501.18795).
//!
//! Ports `mlx_lm/models/smollm3.py` @ 0.32.2. Unusual: the head is tied unless the configuration says otherwise.
//! Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["smollm3"])
    .defaults(|| json!({"tie_word_embeddings": true, "no_rope_layer_interval": 4}));

/// What SmolLM3 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    no_rope_layer_interval: i32,
    no_rope_layers: Option<Vec<i64>>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    /// The list says 1 for layers that know positions; without it the last of each interval knows none.
    fn knows_positions(&self, layer: usize) -> bool {
        match &self.no_rope_layers {
            Some(layers) => layers.get(layer).is_some_and(|&flag| flag != 0),
            None => (layer as i32 + 1) % self.no_rope_layer_interval != 0,
        }
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("no_rope_layer_interval", self.no_rope_layer_interval, i32::MAX)?;
        match &self.no_rope_layers {
            Some(layers) if layers.len() != c.num_hidden_layers as usize => Err(Error::config(format!(
                "`no_rope_layers` has {} entries for {} layers",
                layers.len(),
                c.num_hidden_layers
            ))),
            _ => Ok(()),
        }
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let rope = if self.knows_positions(layer) { Rope::from(c)? } else { Rope::none() };
        let heads = Heads::grouped(c, rope)?.bias(Bias::all(self.attention_bias)).window(c.window(layer, false)?);
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.mlp_bias)?))
    }
}
