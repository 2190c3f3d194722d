//! DeepSeek-V3, R1, Kimi K2 and others: latent attention, and experts chosen by a corrected sigmoid (arXiv:2412.19437).
//!
//! Ports `mlx_lm/models/deepseek_v3.py` @ 0.32.2. Unusual: latents are remembered, and the projection into heads is cut into
//! one map for each head; a router is never packed. Differences: a head may be tied, `rope_interleave` acts, as in transformers,
//! and heads that predict further tokens are there for those who ask for them.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["deepseek_v3", "joyai_llm_flash", "kimi_k2"]).defaults(|| {
        json!({
            "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11008, "moe_intermediate_size": 1407,
            "num_hidden_layers": 30, "num_attention_heads": 32, "moe_layer_freq": 1, "first_k_dense_replace": 0,
            "routed_scaling_factor": 1.0, "norm_topk_prob": true, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1,
            "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
            "max_position_embeddings": 2048,
        })
    });

/// The norms of latents and narrow queries have this of their own.
pub(super) const EPS: f32 = 1e-6;

/// DeepSeek-V3 adds nothing to [`Common`], [`LatentConfig`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
struct Config {}

/// What has to be done to checkpoints of its kind.
pub(super) fn rules(c: &Common) -> Result<Vec<Rule>> {
    let mut rules = SparseConfig::rules();
    rules.push(LatentConfig::of(c)?.rule(c)?);
    Ok(rules)
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        LatentConfig::of(c)?;
        SparseConfig::of(c)?.by_sigmoid().map(drop)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        rules(c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        block(w, c, layer, EPS)
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(MtpNames::DEEPSEEK)
    }
}

/// A block of latent attention and experts chosen by a corrected sigmoid; norms of latents add `eps`.
pub(super) fn block(w: &Weights, c: &Common, layer: usize, eps: f32) -> Result<Box<dyn Block>> {
    let (latent, sparse) = (LatentConfig::of(c)?, SparseConfig::of(c)?);
    let rope = latent.rope(c)?;
    let attention = LatentAttention::load(&w.at("self_attn"), LatentHeads::of(c, latent, rope, eps)?)?;
    Ok(Box::new(sparse.block(w, c, layer, attention, sparse.by_sigmoid()?)?))
}
