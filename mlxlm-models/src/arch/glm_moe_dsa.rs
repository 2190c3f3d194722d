//! GLM-5: DeepSeek-V3.2 whose index rotates neighbouring pairs (arXiv:2602.15763).
//!
//! Ports `mlx_lm/models/glm_moe_dsa.py` @ 0.32.2. Differences: those of `deepseek_v32`.

use super::deepseek_v32::Config;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["glm_moe_dsa"])
    .defaults(|| json!({"indexer_rope_interleave": true, "moe_layer_freq": 1, "first_k_dense_replace": 0}));
