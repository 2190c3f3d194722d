//! Mamba: blocks of one selective state-space mixer each, and no attention (arXiv:2312.00752, arXiv:2410.05355).
//!
//! Ports `mlx_lm/models/mamba.py` @ 0.32.2. Unusual: Falcon Mamba norms steps, inputs and outputs of its mixers without weights.
//! Differences: `layer_norm_epsilon` acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mamba", "falcon_mamba"])
    .aliases(&[
        ("d_model", "hidden_size"),
        ("d_inner", "intermediate_size"),
        ("d_state", "state_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_layers", "num_hidden_layers"),
        ("d_conv", "conv_kernel"),
        ("bias", "use_bias"),
        ("conv_bias", "use_conv_bias"),
    ])
    .defaults(|| {
        json!({
            "tie_word_embeddings": true, "use_bcdt_rms": false, "mixer_rms_eps": 1e-6, "layer_norm_epsilon": 1e-5,
            "time_step_rank": "auto",
        })
    });

/// What models of Mamba are called inside.
pub(super) const NAMES: Names = Names {
    root: "backbone",
    table: "backbone.embeddings",
    stack: "backbone.layers",
    norm: "backbone.norm_f",
    head: "lm_head",
};

/// What Mamba adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    state_size: i32,
    conv_kernel: i32,
    use_bias: bool,
    use_conv_bias: bool,
    time_step_rank: Rank,
    use_bcdt_rms: bool,
    mixer_rms_eps: f32,
    layer_norm_epsilon: f32,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        all_within(&[("state_size", self.state_size), ("conv_kernel", self.conv_kernel)])?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        positive("mixer_rms_eps", self.mixer_rms_eps)?;
        unsupported(c, "hidden_act", c.activation(Activation::Silu)? != Activation::Silu)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::depthwise("**.conv1d.weight")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::rms(&w.at(NAMES.norm), c.hidden_size, self.layer_norm_epsilon)?))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let norm = match self.use_bcdt_rms || c.model_type == "falcon_mamba" {
            true => StepNorm::Plain(self.mixer_rms_eps),
            false => StepNorm::None,
        };
        let config = MambaConfig {
            hidden: c.hidden_size,
            inner: c.intermediate_size()?,
            state: self.state_size,
            rank: self.time_step_rank.of("time_step_rank", c.hidden_size)?,
            conv: self.conv_kernel,
            conv_biased: self.use_conv_bias,
            biased: self.use_bias,
            norm,
        };
        let mixer = Mamba::load(&w.at("mixer"), config)?;
        Ok(Box::new(SingleBlock::load(w, c, self.layer_norm_epsilon, mixer)?))
    }
}
