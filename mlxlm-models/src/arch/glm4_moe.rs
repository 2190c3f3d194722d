//! GLM-4.5 and 4.6: grouped queries that rotate a part of each head, and experts chosen by a corrected sigmoid
//! (arXiv:2508.06471).
//!
//! Ports `mlx_lm/models/glm4_moe.py` @ 0.32.2. Unusual: biases of attention are those of queries, keys and values.
//! Differences: `rope_scaling` acts, as in transformers, and heads that predict further tokens are there for those who ask for them.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["glm4_moe"]).defaults(
    || json!({"moe_layer_freq": 1, "partial_rotary_factor": 0.5, "use_qk_norm": false, "attention_bias": false}),
);

/// What GLM-4.5 adds to [`Common`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    use_qk_norm: bool,
    attention_bias: bool,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        SparseConfig::of(c)?.by_sigmoid().map(drop)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(SparseConfig::rules())
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Frame::untied(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::partial(c)?)?.bias(Bias::of(self.attention_bias, false));
        let heads = match self.use_qk_norm {
            true => heads.qk_norm(Norm::rms, c.rms_norm_eps()?),
            false => heads,
        };
        let (sparse, attention) = (SparseConfig::of(c)?, Attention::load(&w.at("self_attn"), heads)?);
        Ok(Box::new(sparse.block(w, c, layer, attention, sparse.by_sigmoid()?)?))
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(MtpNames::DEEPSEEK)
    }
}
