//! Nanbeige: Llama whose stack may run several times (Nanbeige Lab).
//!
//! Ports `mlx_lm/models/nanbeige.py` @ 0.32.2. Unusual: each run has caches of its own, and the final norm comes after each run
//! unless the configuration says otherwise. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["nanbeige"]).defaults(|| json!({"num_loops": 1}));

/// What Nanbeige adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_loops: i32,
    /// One for each run but the last.
    loop_loss_weights: Option<Vec<f64>>,
    #[serde(default)]
    skip_loop_final_norm: bool,
    #[serde(default)]
    enable_double_loop_split: bool,
    #[serde(default)]
    loop_share_kv: bool,
    #[serde(default)]
    enable_depth_attention: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    /// How often the stack runs.
    fn loops(&self) -> usize {
        match self.loop_loss_weights.as_deref() {
            None | Some([]) => self.num_loops as usize,
            Some(weights) => weights.len() + 1,
        }
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        const MOST: i32 = 1000;
        within("num_loops", self.num_loops, MOST)?;
        within("loop_loss_weights", self.loops().try_into().unwrap_or(i32::MAX), MOST)?;
        unsupported(c, "enable_double_loop_split", self.enable_double_loop_split)?;
        unsupported(c, "loop_share_kv", self.loop_share_kv)?;
        unsupported(c, "enable_depth_attention", self.enable_depth_attention)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { passes: self.loops(), norm_each_pass: !self.skip_loop_final_norm, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        Ok(Box::new(PreNormBlock::biased(w, c, heads, self.mlp_bias)?))
    }
}
