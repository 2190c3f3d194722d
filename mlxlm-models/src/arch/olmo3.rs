//! OLMo 3: OLMo 2 with three sliding layers to one full (arXiv:2512.13961).
//!
//! Ports `mlx_lm/models/olmo3.py` @ 0.32.2. Unusual: `rope_scaling` stretches the full layers only. Differences: layers may be
//! all full or all sliding.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["olmo3"]);

/// What OLMo 3 adds to [`Common`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let slides = c.slides(layer, (layer + 1) % 4 != 0)?;
        let rope = match slides {
            true => Rope::over(&c.rope().clone().unscaled(), c.heads()?.dim)?,
            false => Rope::from(c)?,
        };
        let heads = Heads::grouped(c, rope)?
            .bias(Bias::all(self.attention_bias))
            .whole_qk_norm(Norm::rms, c.rms_norm_eps()?)
            .window(c.window(layer, slides)?);
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        Ok(Box::new(PostNormBlock::with(w, c, attention, Mlp::of(&w.at("mlp"), c)?)?))
    }
}
