//! DeepSeek-MoE: Llama with many small experts and some that every token takes (arXiv:2401.06066).
//!
//! Ports `mlx_lm/models/deepseek.py` @ 0.32.2. Unusual: shares are a softmax over all experts, not only over the chosen.
//! Differences: `norm_topk_prob` and every type of `rope_scaling` act, as in the published code.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["deepseek"]).defaults(|| {
    json!({
        "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11008, "moe_intermediate_size": 1407,
        "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 32, "moe_layer_freq": 1,
        "first_k_dense_replace": 0, "routed_scaling_factor": 1.0, "max_position_embeddings": 2048,
    })
});

/// What DeepSeek-MoE adds to [`Common`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        SparseConfig::of(c).map(drop)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(SparseConfig::rules())
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        let sparse = SparseConfig::of(c)?;
        let routing = sparse.by_softmax()?;
        let routing = Routing { normalized: sparse.normalized() && routing.chosen > 1, ..routing };
        Ok(Box::new(sparse.block(w, c, layer, Attention::load(&w.at("self_attn"), heads)?, routing)?))
    }
}
