//! Kimi-VL, the text model: Moonlight, a small DeepSeek-V3, inside a model of images (arXiv:2504.07491, arXiv:2502.16982).
//!
//! Ports `mlx_lm/models/kimi_vl.py` @ 0.32.2. Differences: those of `deepseek_v3`; published checkpoints, whose projection into
//! heads is whole, load too.

use super::deepseek_v3;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["kimi_vl"],
    "language_model",
    |_| Ok(&deepseek_v3::ARCH),
    || ["**.vision_tower", "**.rotary_emb", "**.multi_modal_projector"].map(Rule::Drop).into(),
);
