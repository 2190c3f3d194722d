//! A model small enough to differentiate numerically.

use mlxlm_models::{CausalLm, ModelConfig, build_random};
use serde_json::{Value, json};

/// The configuration of [`tiny_llama`].
pub(crate) fn tiny_config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "max_position_embeddings": 64,
    })
}

/// Two layers of sixteen dimensions over a vocabulary of twelve.
pub(crate) fn tiny_llama(seed: u64) -> Box<dyn CausalLm> {
    build_random(&ModelConfig::new(tiny_config()).unwrap(), seed).unwrap().model
}
