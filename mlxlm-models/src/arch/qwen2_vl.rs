//! Qwen2-VL and Qwen2.5-VL, the text model: Qwen2 (arXiv:2409.12191, arXiv:2502.13923).
//!
//! Ports `mlx_lm/models/qwen2_vl.py` @ 0.32.2. Unusual: the configuration of the text may be the whole file.

use super::qwen2;
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["qwen2_vl", "qwen2_5_vl"], "language_model", |_| Ok(&qwen2::ARCH), Rule::language_model);
