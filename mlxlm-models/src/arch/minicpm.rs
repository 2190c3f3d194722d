//! MiniCPM: Llama with factors that let small models stand for large ones in training (arXiv:2404.06395).
//!
//! Ports `mlx_lm/models/minicpm.py` @ 0.32.2. Unusual: the halves of each block are scaled by the depth, and the head is the
//! embedding table where the checkpoint has no other. Differences: logits of a tied head are scaled as those of its own head
//! are (tied models do not load in the reference), and `num_key_value_heads` may be missing.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["minicpm"]).defaults(|| json!({"rope_theta": 1e6}));

/// What MiniCPM adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    dim_model_base: f32,
    scale_depth: f32,
    scale_emb: f32,
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("dim_model_base", self.dim_model_base)?;
        positive("scale_depth", self.scale_depth)?;
        positive("scale_emb", self.scale_emb)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let frame = Frame::new(c, Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?);
        Ok(Frame {
            head: if c.tie_word_embeddings { Head::Tied } else { Head::OwnUnlessMissing },
            embedding_scale: Some(self.scale_emb),
            logit_scale: Some(self.dim_model_base / c.hidden_size as f32),
            ..frame
        })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let scale = self.scale_depth / (c.num_hidden_layers as f32).sqrt();
        Ok(Box::new(PreNormBlock::load(w, c, Heads::grouped(c, Rope::from(c)?)?)?.branch_scale(scale)))
    }
}
