//! Small models and a tokenizer for the tests of this crate.

use std::path::Path;

use mlxlm_cache::{CacheKind, Caches, Offset};
use mlxlm_core::nn::{Leaf, Module};
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::{Array, io};
use mlxlm_models::{CausalLm, ModelConfig, ModelInfo, build_random};
use serde_json::{Value, json};

use crate::{Result, SamplerOptions};

/// The vocabulary of [`tiny`].
pub(crate) const V: i32 = 32;

/// A real model with weights drawn from a seed; `changes` go over its configuration.
pub(crate) fn tiny_with(seed: u64, changes: &Value) -> Box<dyn CausalLm> {
    let mut config = json!({
        "model_type": "llama", "vocab_size": V, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        "max_position_embeddings": 512,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    build_random(&ModelConfig::new(config).unwrap(), seed).unwrap().0
}

/// A real model with weights drawn from a seed.
pub(crate) fn tiny(seed: u64) -> Box<dyn CausalLm> {
    tiny_with(seed, &json!({}))
}

/// A model that follows each token by the next number, and keeps nothing.
#[derive(Debug)]
pub(crate) struct Counter {
    info: ModelInfo,
    kinds: Vec<CacheKind>,
    /// What the logits of this token are not.
    poisoned: Option<u32>,
}

impl Counter {
    pub(crate) fn new() -> Self {
        let info = ModelInfo { model_type: "counter".into(), vocab_size: V, num_layers: 0, context_length: Some(64) };
        Self { info, kinds: Vec::new(), poisoned: None }
    }

    /// After `token` its logits are no numbers.
    pub(crate) fn poisoned(token: u32) -> Self {
        Self { poisoned: Some(token), ..Self::new() }
    }

    /// Its layers say that they keep recurrent states.
    pub(crate) fn recurrent() -> Self {
        Self { kinds: vec![CacheKind::State { slots: 1 }], ..Self::new() }
    }
}

impl Module for Counter {
    fn walk<'a>(&'a mut self, _path: &str, _visit: &mut dyn FnMut(&str, Leaf<'a>)) {}
}

impl CausalLm for Counter {
    fn forward(&self, tokens: &Array, _caches: Option<&mut Caches>) -> mlxlm_models::Result<Array> {
        let [rows, len] = *tokens.shape() else { panic!("tokens of shape {:?}", tokens.shape()) };
        let mut logits = Vec::new();
        for token in tokens.to_vec_exact::<u32>().unwrap() {
            let peak = if self.poisoned == Some(token) { f32::NAN } else { 9.0 };
            logits.extend((0..V as u32).map(|id| if id == (token + 1) % V as u32 { peak } else { 0.0 }));
        }
        Ok(Array::from_slice(&logits, &[rows, len, V]))
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.kinds.clone()
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// Tokens that are one word each, `w0` to `w31`, of which `w9` ends a text.
pub(crate) fn tokenizer(folder: &Path) -> Tokenizer {
    let vocab: serde_json::Map<String, Value> = (0..V).map(|id| (format!("w{id}"), id.into())).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w31"},
    });
    io::write_json(folder.join("tokenizer.json"), &file).unwrap();
    io::write_json(folder.join("tokenizer_config.json"), &json!({"eos_token": "w9"})).unwrap();
    Tokenizer::from_folder(folder, &TokenizerOptions::default()).unwrap()
}

/// Draws that differ from token to token.
pub(crate) fn drawing(seed: u64) -> SamplerOptions {
    SamplerOptions { temp: 1.0, top_p: 0.95, seed: Some(seed), ..SamplerOptions::default() }
}

/// The tokens that caches have read.
pub(crate) fn offset(caches: &Caches) -> i32 {
    match caches.offset() {
        Offset::Same(offset) => offset,
        Offset::Rows(_) => panic!("caches of a batch"),
    }
}

/// The ids, or the first error.
pub(crate) fn ids(tokens: impl Iterator<Item = Result<crate::decode::Token>>) -> Result<Vec<u32>> {
    tokens.map(|token| Ok(token?.id)).collect()
}
