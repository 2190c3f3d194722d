//! IQuest-Coder Loop: Llama whose stack runs twice; the second time each layer mixes what it sees of its first run with a
//! window of its second (IQuest Lab, 2026).
//!
//! Ports `mlx_lm/models/iquestloopcoder.py` @ 0.32.2. Unusual: the gates of that mixture lie beside the stack, and the caches
//! of the second run follow those of the first. Differences: none.

use crate::blocks::looped::{Gates, LoopBlock, ShareGate};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["iquestloopcoder"])
    .defaults(|| json!({"max_position_embeddings": 131_072, "rope_theta": 5e5, "loop_num": 2, "loop_window_size": 64}));

/// How often the stack runs.
const LOOPS: usize = 2;

/// What the looped coder adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    loop_num: usize,
    loop_window_size: i32,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "loop_num", self.loop_num != LOOPS)?;
        within("loop_window_size", self.loop_window_size, i32::MAX)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let (at, heads) = (w.at(LLAMA.root).at("gate_projections"), c.heads()?);
        let gates =
            (0..c.num_hidden_layers).map(|layer| ShareGate::load(&at.at(layer), heads)).collect::<Result<_>>()?;
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { entry: Some(Box::new(Gates { gate_projections: gates })), passes: LOOPS, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::all(self.attention_bias));
        let norm = |name: &str| Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?).map_err(Error::from);
        let (width, act) = (c.intermediate_size()?, c.activation(Activation::Silu)?);
        Ok(Box::new(LoopBlock {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::gated_biased(&w.at("mlp"), c.hidden_size, width, act, self.mlp_bias)?,
            window: self.loop_window_size,
        }))
    }
}
