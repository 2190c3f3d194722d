//! Qwen3-VL, the text model: Qwen3 (arXiv:2511.21631).
//!
//! Ports `mlx_lm/models/qwen3_vl.py` @ 0.32.2. Unusual: the configuration of the text may be the whole file.

use super::qwen3;
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["qwen3_vl"], "language_model", |_| Ok(&qwen3::ARCH), Rule::language_model);
