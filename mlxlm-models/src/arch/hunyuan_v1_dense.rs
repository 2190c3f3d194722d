//! Hunyuan, the dense models: Llama whose heads are normed after the rotation (Tencent, 2025).
//!
//! Ports `mlx_lm/models/hunyuan_v1_dense.py` @ 0.32.2. Unusual: `rope_scaling` of the type `dynamic` has the growth of the
//! rotary base as a number, `alpha`. Differences: other kinds of `rope_scaling` act.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["hunyuan_v1_dense"])
    .defaults(|| json!({"max_position_embeddings": 32768, "use_qk_norm": true}));

/// What Hunyuan adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
    use_qk_norm: bool,
}

impl DecoderConfig for Config {
    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let names = AttentionNames { q_norm: "query_layernorm", k_norm: "key_layernorm", ..AttentionNames::LLAMA };
        let mut heads = Heads::grouped(c, Rope::from(c)?)?.names(names).bias(Bias::all(self.attention_bias));
        if self.use_qk_norm {
            heads = heads.rotated_qk_norm(Norm::rms, c.rms_norm_eps()?);
        }
        Ok(Box::new(PreNormBlock::load(w, c, heads)?))
    }
}
