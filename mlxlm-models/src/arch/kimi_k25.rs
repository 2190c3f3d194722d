//! Kimi K2.5, the text model: DeepSeek-V3 inside a model of images (arXiv:2602.02276).
//!
//! Ports `mlx_lm/models/kimi_k25.py` @ 0.32.2. Differences: those of `deepseek_v3`.

use super::deepseek_v3;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["kimi_k25"],
    "language_model",
    |_| Ok(&deepseek_v3::ARCH),
    || ["vision_tower", "vision_model", "multi_modal_projector", "mm_projector"].map(Rule::Drop).into(),
);
