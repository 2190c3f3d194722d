//! MiniCPM3: latent attention, and branches, embeddings and logits that are scaled (arXiv:2404.06395).
//!
//! Ports `mlx_lm/models/minicpm3.py` @ 0.32.2. Unusual: the keys and values of all heads are remembered, not the latents; the
//! width of values follows from the hidden size; only a head that is not tied has scaled logits. Differences: short factors
//! for short sequences, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["minicpm3"]).defaults(|| json!({"rope_theta": 1e6}));

/// What MiniCPM3 adds to [`Common`] and [`LatentConfig`].
#[derive(Debug, Deserialize)]
struct Config {
    dim_model_base: f32,
    scale_depth: f32,
    scale_emb: f32,
}

/// The norms of latents and narrow queries have this of their own.
const EPS: f32 = 1e-5;

fn latent(c: &Common) -> Result<LatentConfig> {
    let mut latent: LatentConfig = c.part()?;
    latent.v_head_dim = Some(c.hidden_size / c.num_attention_heads()?);
    latent.check(c).map(|()| latent)
}

/// Halves are rotated, by the long or short factors of whatever type of scaling there is.
fn rope(c: &Common, dims: i32) -> Result<Rope> {
    let mut rope = c.rope().clone();
    rope.traditional = false;
    if rope.entries.long_factor.is_some() {
        rope.entries.rope_type = Some("longrope".into());
        rope.entries.original_max_position_embeddings.get_or_insert(4096.0);
    }
    Rope::over(&rope, dims)
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        positive("dim_model_base", self.dim_model_base)?;
        positive("scale_depth", self.scale_depth)?;
        positive("scale_emb", self.scale_emb)?;
        latent(c).map(drop)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at("model.norm"), c.hidden_size, c.rms_norm_eps()?)?;
        let logit_scale = (!c.tie_word_embeddings).then(|| self.dim_model_base / c.hidden_size as f32);
        Ok(Frame { embedding_scale: Some(self.scale_emb), logit_scale, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let latent = latent(c)?;
        let (rope, width) = (rope(c, latent.qk_rope_head_dim)?, latent.qk_nope_head_dim + latent.qk_rope_head_dim);
        let heads = LatentHeads::of(c, latent, rope, EPS)?.spelled().scale((width as f32).powf(-0.5));
        let attention = LatentAttention::load(&w.at("self_attn"), heads)?;
        let scale = self.scale_depth / (c.num_hidden_layers as f32).sqrt();
        Ok(Box::new(PreNormBlock::with(w, c, attention, Mlp::of(&w.at("mlp"), c)?)?.branch_scale(scale)))
    }
}
