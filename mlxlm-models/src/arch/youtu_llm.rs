//! Youtu-LLM: Llama with latent attention (arXiv:2512.24618).
//!
//! Ports `mlx_lm/models/youtu_llm.py` @ 0.32.2. Unusual: the keys and values of all heads are remembered, not the latents, and
//! the head is tied unless the configuration says otherwise.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["youtu_llm"]).defaults(|| {
    json!({
        "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32,
        "num_attention_heads": 16, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "qk_nope_head_dim": 128, "max_position_embeddings": 131_072, "rope_theta": 1.6e6, "rope_traditional": true,
        "tie_word_embeddings": true,
    })
});

/// What Youtu-LLM adds to [`Common`] and [`LatentConfig`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        LatentConfig::of(c).map(drop)
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let latent = LatentConfig::of(c)?;
        let rope = match c.rope().traditional {
            true => latent.rope(c)?,
            false => Rope::over(c.rope(), latent.qk_rope_head_dim)?,
        };
        // Stretched frequencies leave the scores as they are.
        let scale = ((latent.qk_nope_head_dim + latent.qk_rope_head_dim) as f32).powf(-0.5);
        let heads = LatentHeads::of(c, latent, rope, c.rms_norm_eps()?)?.spelled().scale(scale);
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&w.at("mlp"), c.hidden_size, c.intermediate_size()?, act, self.mlp_bias)?;
        Ok(Box::new(PreNormBlock::with(w, c, LatentAttention::load(&w.at("self_attn"), heads)?, mlp)?))
    }
}
