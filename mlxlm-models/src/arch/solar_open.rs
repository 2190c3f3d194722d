//! Solar Open: GLM-4.5 with other numbers (the Solar Open technical report, Upstage, 2026).
//!
//! Ports `mlx_lm/models/solar_open.py` @ 0.32.2. Unusual: nothing. Differences: `rope_scaling` acts, as in transformers.

use super::glm4_moe::Config;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["solar_open"]).defaults(
    || json!({"moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "use_qk_norm": false, "attention_bias": false}),
);
