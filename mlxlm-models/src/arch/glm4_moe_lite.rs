//! GLM-4.7 Flash: DeepSeek-V3 with the norms of the configuration.
//!
//! Ports `mlx_lm/models/glm4_moe_lite.py` @ 0.32.2, without a paper. Differences: those of `deepseek_v3`.

use super::deepseek_v3;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["glm4_moe_lite"]).defaults(|| {
    json!({
        "vocab_size": 154_880, "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536,
        "num_hidden_layers": 47, "num_attention_heads": 20, "n_shared_experts": 1, "n_routed_experts": 64,
        "routed_scaling_factor": 1.8, "kv_lora_rank": 512, "q_lora_rank": 768, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 192, "v_head_dim": 256, "norm_topk_prob": true, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 4, "moe_layer_freq": 1, "first_k_dense_replace": 1, "max_position_embeddings": 202_752,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    })
});

/// GLM-4.7 Flash adds nothing to [`Common`], [`LatentConfig`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        LatentConfig::of(c)?;
        SparseConfig::of(c)?.by_sigmoid().map(drop)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        deepseek_v3::rules(c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        deepseek_v3::block(w, c, layer, c.rms_norm_eps()?)
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(MtpNames::DEEPSEEK)
    }
}
