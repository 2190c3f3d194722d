//! PLaMo 2: mixers of Mamba-2 with attention in every other layer, and norms before and after each half of a block
//! (arXiv:2509.04897).
//!
//! Ports `mlx_lm/models/plamo2.py` @ 0.32.2. Unusual:
//! - Norm weights are stored less an offset, which is another one after each half.
//! - Inputs, outputs and steps of the mixers come out of the filtered states, and are normed.
//! - Blocks lie under `model.layers.layers`.
//!
//! Differences: layers that are not in `full_attention_idx` attend to `attention_window_size` tokens and the one itself, as in the
//! code that comes with the models; their caches keep all tokens, as the reference's do.

use crate::blocks::plamo::{PlamoAttention, PlamoMamba};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["plamo2"]).defaults(|| {
    json!({
        "hidden_size": 4096, "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "max_position_embeddings": 2048, "attention_window_size": 2048, "full_attention_idx": [], "mamba_d_state": 64,
        "mamba_d_conv": 4, "mamba_num_heads": 64, "mamba_step": 2, "mamba_enabled": true,
        "intermediate_size": 13312, "vocab_size": 32000,
    })
})
.aliases(&[("hidden_size_per_head", "head_dim")]);

const NAMES: Names = Names { stack: "model.layers.layers", ..LLAMA };
const BLOCK: BlockNames = BlockNames {
    pre_mixer: "pre_mixer_norm",
    mixer: "mixer",
    post_mixer: "post_mixer_norm",
    pre_mlp: "pre_mlp_norm",
    mlp: "mlp",
    post_mlp: "post_mlp_norm",
};

/// What PLaMo 2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_window_size: i32,
    full_attention_idx: Vec<usize>,
    mamba_d_state: i32,
    mamba_d_conv: i32,
    mamba_num_heads: i32,
    mamba_step: usize,
    mamba_enabled: bool,
}

impl Config {
    /// Attention stands in the middle of each step, or in the last layer of a model that is shorter than half a step.
    fn is_mamba(&self, c: &Common, layer: usize) -> bool {
        let (layers, half) = (c.num_hidden_layers as usize, self.mamba_step / 2);
        match layers <= half {
            true => self.mamba_enabled && layer + 1 != layers,
            false => self.mamba_enabled && layer % self.mamba_step != half,
        }
    }
}

/// A norm whose weight is stored less `offset`.
fn norm(w: &Weights, c: &Common, offset: f32) -> Result<Norm> {
    Ok(Norm::rms_plus(w, c.hidden_size, c.rms_norm_eps()?, offset)?)
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, _c: &Common) -> Result<()> {
        all_within(&[
            ("mamba_d_state", self.mamba_d_state),
            ("mamba_d_conv", self.mamba_d_conv),
            ("mamba_num_heads", self.mamba_num_heads),
        ])?;
        within("attention_window_size", self.attention_window_size, i32::MAX - 1)?;
        match self.mamba_step > 1 {
            true => Ok(()),
            false => Err(Error::config(format!("`mamba_step` is {}, expected at least 2", self.mamba_step))),
        }
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::depthwise("**.conv1d.weight")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, norm(&w.at(NAMES.norm), c, 1.0)?))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let mixer: Box<dyn Mixer> = match self.is_mamba(c, layer) {
            true => Box::new(PlamoMamba::load(
                &w.at("mixer"),
                c,
                [self.mamba_num_heads, self.mamba_d_state, self.mamba_d_conv],
            )?),
            false => {
                let slides = !self.full_attention_idx.contains(&layer);
                let window = slides.then_some(self.attention_window_size + 1);
                Box::new(PlamoAttention::load(&w.at("mixer"), c, window)?)
            }
        };
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        let mlp = Mlp::fused(&w.at("mlp"), MlpNames::FUSED, c.hidden_size, width, act)?;
        let norm = |of: &Weights| {
            let offset = match of.path().rsplit('.').next() {
                Some("post_mixer_norm") => 0.2,
                Some("post_mlp_norm") => 5.0_f32.powf(-1.5),
                _ => 1.0,
            };
            norm(of, c, offset)
        };
        Ok(Box::new(SandwichBlock::load(w, BLOCK, norm, mixer, mlp)?))
    }
}
