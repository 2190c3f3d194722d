//! Nemotron 4 and Minitron: layer norms, an MLP without a gate, and half of each head rotated (arXiv:2402.16819).
//!
//! Ports `mlx_lm/models/nemotron.py` @ 0.32.2. Unusual: norm weights are stored minus one. Differences: `hidden_act` and
//! every kind of `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["nemotron"]).defaults(|| json!({"norm_eps": 1e-5, "partial_rotary_factor": 0.5}));

/// What Nemotron adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    norm_eps: f32,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    fn norm(&self, w: &Weights, c: &Common) -> Result<Norm> {
        Ok(Norm::layer_plus_one(w, c.hidden_size, self.norm_eps)?)
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        positive("norm_eps", self.norm_eps)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, self.norm(&w.at(LLAMA.norm), c)?))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        const NAMES: BlockNames = BlockNames::PRE;
        // The reference has the entry `rope_traditional` and does not act on it.
        let mut rope = c.rope().clone();
        rope.traditional = false;
        let rope = Rope::partial_of(&rope, c.heads()?.dim)?;
        let heads = Heads::grouped(c, rope)?.bias(Bias::all(self.attention_bias));
        let attention = Attention::load(&w.at(NAMES.mixer), heads)?;
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Relu2)?);
        let mlp = Mlp::plain(&w.at(NAMES.mlp), MlpNames::LLAMA, c.hidden_size, width, act, self.mlp_bias)?;
        let norms = [self.norm(&w.at(NAMES.pre_mixer), c)?, self.norm(&w.at(NAMES.pre_mlp), c)?];
        Ok(Box::new(PreNormBlock::new(NAMES, norms, attention, mlp)))
    }
}
