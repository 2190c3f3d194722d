//! Phi-1.5 and Phi-2: attention and MLP side by side behind one layer norm (arXiv:2309.05463).
//!
//! Ports `mlx_lm/models/phi.py` @ 0.32.2. Unusual: a part of each head is rotated, and everything has a bias, the head too.
//! Differences: `hidden_act` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["phi"]).defaults(|| {
    json!({
        "hidden_size": 2560, "intermediate_size": 10240, "layer_norm_eps": 1e-5, "max_position_embeddings": 2048,
        "num_attention_heads": 32, "num_hidden_layers": 32, "partial_rotary_factor": 0.4, "qk_layernorm": false,
        "vocab_size": 51200,
    })
});

/// What Phi adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    layer_norm_eps: f32,
    qk_layernorm: bool,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer(w, c.hidden_size, self.layer_norm_eps, true)?)
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { norm: "model.final_layernorm", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        positive("layer_norm_eps", self.layer_norm_eps)?;
        unsupported(c, "qk_layernorm", self.qk_layernorm)?;
        unsupported(c, "tie_word_embeddings", c.tie_word_embeddings)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = self.norm(&w.at(self.names().norm), c)?;
        Ok(Frame { head: Head::Own { biased: true }, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = BlockNames::PRE;
        let parts = AttentionNames { out: "dense", ..AttentionNames::LLAMA };
        let heads = Heads::grouped(c, Rope::partial(c)?)?.bias(Bias::All).names(parts);
        let parts = MlpNames { gate: "", up: "fc1", down: "fc2" };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::GeluApprox)?);
        let mlp = Mlp::plain(&w.at(names.mlp), parts, c.hidden_size, width, act, true)?;
        let attention = Attention::load(&w.at(names.mixer), heads)?;
        Ok(Box::new(ParallelBlock::new(names, self.norm(&w.at(names.pre_mixer), c)?, None, attention, mlp)))
    }
}
