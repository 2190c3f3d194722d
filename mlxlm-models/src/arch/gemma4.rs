//! Gemma 4, the text model inside the one of images and sound.
//!
//! Ports `mlx_lm/models/gemma4.py` @ 0.32.2.

use super::gemma4_text;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["gemma4", "gemma4_unified"],
    "language_model",
    |_| Ok(&gemma4_text::ARCH),
    Rule::language_model,
);
