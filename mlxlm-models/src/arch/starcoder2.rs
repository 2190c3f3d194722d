//! StarCoder 2: grouped queries and rotary positions, with layer norms, biases and an MLP without a gate (arXiv:2402.19173).
//!
//! Ports `mlx_lm/models/starcoder2.py` @ 0.32.2. Differences: `sliding_window`, `rope_scaling`, `hidden_act` and `use_bias` act,
//! as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["starcoder2"])
    .aliases(&[("layer_norm_epsilon", "norm_epsilon")])
    .defaults(|| {
        json!({
            "mlp_type": "default", "norm_epsilon": 1e-5, "norm_type": "layer_norm", "rope_theta": 1e5,
            "tie_word_embeddings": true, "use_bias": true, "vocab_size": 49152,
        })
    });

/// What StarCoder 2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    mlp_type: String,
    norm_epsilon: f32,
    norm_type: String,
    use_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "mlp_type", self.mlp_type != "default")?;
        unsupported(c, "norm_type", self.norm_type != "layer_norm")?;
        positive("norm_epsilon", self.norm_epsilon)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::layer(&w.at(self.names().norm), c.hidden_size, self.norm_epsilon, true)?))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.use_bias)).window(c.window(layer, true)?);
        let parts = MlpNames { gate: "", up: "c_fc", down: "c_proj" };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Gelu)?);
        let mlp = Mlp::plain(&w.at("mlp"), parts, c.hidden_size, width, act, self.use_bias)?;
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(PreNormBlock::layer_normed(w, c, BlockNames::PRE, self.norm_epsilon, attention, mlp)?))
    }
}
