//! Gemma: Llama with an MLP gated by GELU, and heads wider than their share of the state (arXiv:2403.08295).
//!
//! Ports `mlx_lm/models/gemma.py` @ 0.32.2. Unusual: norm weights are stored minus one, and embeddings are scaled by √D.
//! Differences: `hidden_activation`, `attention_bias` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["gemma"]).defaults(|| json!({"tie_word_embeddings": true}));

/// What Gemma adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
}

fn norm(w: &Weights, c: &Common) -> Result<Norm> {
    Ok(Norm::rms_plus_one(w, c.hidden_size, c.rms_norm_eps()?)?)
}

impl DecoderConfig for Config {
    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = norm(&w.at(self.names().norm), c)?;
        Ok(Frame { embedding_scale: Some((c.hidden_size as f32).sqrt()), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames::PRE;
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        let act = c.activation(Activation::Gelu)?;
        let mlp = Mlp::gated(&w.at(names.mlp), c.hidden_size, c.intermediate_size()?, act)?;
        let norms = [norm(&w.at(names.pre_mixer), c)?, norm(&w.at(names.pre_mlp), c)?];
        Ok(Box::new(PreNormBlock::new(names, norms, Attention::load(&w.at(names.mixer), heads)?, mlp)))
    }
}
