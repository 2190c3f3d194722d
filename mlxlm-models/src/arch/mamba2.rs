//! Mamba-2: blocks of one state-space mixer each, whose heads decay as one (arXiv:2405.21060).
//!
//! Ports `mlx_lm/models/mamba2.py` @ 0.32.2. Unusual: the norms of blocks add 1e-5 whatever `layer_norm_epsilon` says, which is
//! that of the last norm and of the gated ones.

use super::mamba::NAMES;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mamba2"]);

/// What Mamba-2 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_heads: i32,
    head_dim: i32,
    state_size: i32,
    ssm_state_size: Option<i32>,
    n_groups: i32,
    conv_kernel: i32,
    use_bias: bool,
    use_conv_bias: bool,
    layer_norm_epsilon: f32,
    time_step_limit: StepLimits,
    #[serde(default, rename = "time_step_rank")]
    _time_step_rank: serde_json::Value,
    /// As many as all heads have.
    #[serde(default, rename = "intermediate_size")]
    _intermediate_size: serde_json::Value,
}

impl Config {
    fn heads(&self) -> ScanHeads {
        let state = self.ssm_state_size.unwrap_or(self.state_size);
        ScanHeads { count: self.num_heads, dim: self.head_dim, groups: self.n_groups, state }
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        NAMES
    }

    fn check(&self, c: &Common) -> Result<()> {
        all_within(&[
            ("num_heads", self.num_heads),
            ("head_dim", self.head_dim),
            ("state_size", self.heads().state),
            ("n_groups", self.n_groups),
            ("conv_kernel", self.conv_kernel),
        ])?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        unsupported(c, "hidden_act", c.activation(Activation::Silu)? != Activation::Silu)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![Rule::depthwise("**.conv1d.weight")])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, Norm::rms(&w.at(NAMES.norm), c.hidden_size, self.layer_norm_epsilon)?))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let config = Mamba2Config {
            hidden: c.hidden_size,
            heads: self.heads(),
            conv: self.conv_kernel,
            conv_biased: self.use_conv_bias,
            in_biased: self.use_bias,
            out_biased: self.use_bias,
            limits: self.time_step_limit,
            norm: GateNorm::After { eps: self.layer_norm_epsilon, groups: 1 },
            pinned: false,
        };
        Ok(Box::new(SingleBlock::load(w, c, 1e-5, Mamba2::load(&w.at("mixer"), config)?)?))
    }
}
