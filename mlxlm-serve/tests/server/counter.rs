//! A model that counts: after each token comes the next number. It may be slow, and fail on purpose.

use std::sync::Arc;
use std::time::Duration;

use mlxlm_cache::{CacheKind, Caches};
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::{Array, module};
use mlxlm_models::{CausalLm, Loaded, ModelConfig, ModelInfo};
use mlxlm_serve::{Loader, Models};
use serde_json::{Value, json};

/// Tokens of its vocabulary: the words `w0` to `w99`, of which `w9` ends a text.
pub const V: u32 = 100;

/// After this token its logits are no numbers.
pub const POISON: u32 = 50;

/// This token makes it panic.
pub const PANIC: u32 = 60;

/// How it counts.
#[derive(Debug)]
struct Counter {
    info: ModelInfo,
    /// What reading a token takes.
    pace: Duration,
}

module!(Counter {});

impl CausalLm for Counter {
    /// The logits already: the head has nothing to do.
    fn hidden(&self, tokens: &Array, _caches: Option<&mut Caches>) -> mlxlm_models::Result<Array> {
        let [rows, len] = *tokens.shape() else { panic!("tokens of shape {:?}", tokens.shape()) };
        std::thread::sleep(self.pace * len as u32);
        let mut logits = Vec::new();
        for token in tokens.to_vec_exact::<u32>().unwrap() {
            assert!(token != PANIC, "the model broke down on purpose");
            let peak = if token == POISON { f32::NAN } else { 9.0 };
            logits.extend((0..V).map(|id| if id == (token + 1) % V { peak } else { 0.0 }));
        }
        Ok(Array::from_slice(&logits, &[rows, len, V as i32]))
    }

    fn head(&self, hidden: &Array) -> mlxlm_models::Result<Array> {
        Ok(hidden.clone())
    }

    fn cache_kinds(&self) -> Vec<CacheKind> {
        Vec::new()
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// Words in place of others, which are tokens with a meaning of their own.
fn tokenizer(marks: &[(u32, &str)]) -> Tokenizer {
    let name = |id: u32| marks.iter().find(|mark| mark.0 == id).map_or_else(|| format!("w{id}"), |mark| mark.1.into());
    let vocab: serde_json::Map<String, Value> = (0..V).map(|id| (name(id), id.into())).collect();
    let added = |(id, content): &(u32, &str)| {
        json!({"id": id, "content": content, "special": false, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let added: Vec<Value> = marks.iter().map(added).collect();
    let content = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    let template = "{% for message in messages %}{{ message.content }} {% endfor %}";
    let config = json!({"eos_token": "w9", "chat_template": template});
    let options = TokenizerOptions { config: config.as_object().unwrap().clone(), ..TokenizerOptions::default() };
    Tokenizer::from_json("counter", &content, &options).unwrap()
}

/// A model that takes so long for a token.
pub fn counter(pace: Duration) -> Loader {
    counting(pace, &[])
}

/// The same with marks of thinking in place of `w70` and `w90`.
pub fn thinker(pace: Duration) -> Loader {
    counting(pace, &[(70, "<think>"), (90, "</think>")])
}

fn counting(pace: Duration, marks: &'static [(u32, &'static str)]) -> Loader {
    Arc::new(move || {
        let context_length = Some(4096);
        let info = ModelInfo { model_type: "counter".into(), vocab_size: V as i32, num_layers: 0, context_length };
        let config = ModelConfig::new(json!({"model_type": "counter"})).unwrap();
        let model = Box::new(Counter { info, pace });
        let main = Loaded { model, tokenizer: tokenizer(marks), config, warnings: Vec::new() };
        Ok(Models { main, draft: None })
    })
}
