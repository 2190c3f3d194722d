//! DeepSeek-V2: latent attention, and experts of which the best groups are looked at (arXiv:2405.04434).
//!
//! Ports `mlx_lm/models/deepseek_v2.py` @ 0.32.2. Unusual: the keys and values of all heads are remembered, not the latents;
//! shares are a softmax over all experts. Differences: frequencies need not be stretched.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["deepseek_v2"]).defaults(|| {
    json!({
        "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11008, "moe_intermediate_size": 1407,
        "num_hidden_layers": 30, "num_attention_heads": 32, "moe_layer_freq": 1, "first_k_dense_replace": 0,
        "routed_scaling_factor": 1.0, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "qk_nope_head_dim": 128, "max_position_embeddings": 2048,
    })
});

/// The norms of latents and narrow queries have this of their own.
const EPS: f32 = 1e-6;

/// DeepSeek-V2 adds nothing to [`Common`], [`LatentConfig`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
struct Config {}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        LatentConfig::of(c)?;
        unsupported(c, "norm_topk_prob", SparseConfig::of(c)?.normalized())
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(SparseConfig::rules())
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (latent, sparse) = (LatentConfig::of(c)?, SparseConfig::of(c)?);
        let rope = latent.rope(c)?;
        let heads = LatentHeads::of(c, latent, rope, EPS)?.spelled();
        let attention = LatentAttention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(sparse.block(w, c, layer, attention, sparse.by_softmax()?)?))
    }
}
