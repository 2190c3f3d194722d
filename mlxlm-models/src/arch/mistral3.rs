//! Mistral 3 and LLaVA, the text model: that of Mistral, Ministral 3 or Mistral 4, whichever `text_config` names.
//! Some files of Ministral 3 have the name of its text model outside too.
//!
//! Ports `mlx_lm/models/mistral3.py` @ 0.32.2. Differences: windows act, as in transformers.

use super::llama;
use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::text_of(&["mistral3", "llava"], "language_model", text_model, Rule::language_model)
        .by_class(&[("ministral3", "Mistral3ForConditionalGeneration")])
        .defaults(|| json!({"tie_word_embeddings": false}));

fn text_model(text: &ModelConfig) -> Result<&'static Architecture> {
    match text.model_type()? {
        name @ ("ministral3" | "mistral4") => Architecture::find(name),
        _ => Ok(&llama::ARCH),
    }
}
