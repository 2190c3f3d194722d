//! Qwen3.5 with experts, the text model inside.
//!
//! Ports `mlx_lm/models/qwen3_5_moe.py` @ 0.32.2, which differs from `qwen3_5` in the names of files of transformers alone; both
//! understand both.

use super::qwen3_5::{TEXT, outer_rules};
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["qwen3_5_moe"], "language_model", |_| Ok(&TEXT), outer_rules);
