//! Pixtral, the text model: Llama (arXiv:2410.07073).
//!
//! Ports `mlx_lm/models/pixtral.py` @ 0.32.2. Differences: the names of newer files of transformers are read too.

use super::llama;
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["pixtral"], "language_model", |_| Ok(&llama::ARCH), Rule::language_model)
        .defaults(|| json!({"num_attention_heads": 32, "tie_word_embeddings": false}));
