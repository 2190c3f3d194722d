//! Gemma 3, the text model inside the one of images (arXiv:2503.19786).
//!
//! Ports `mlx_lm/models/gemma3.py` @ 0.32.2. Differences: the names of newer files of transformers are read too.

use super::gemma3_text;
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["gemma3"], "language_model", |_| Ok(&gemma3_text::ARCH), Rule::language_model)
        .defaults(|| json!({"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208}));
