//! Small models and a tokenizer for the tests of this crate.

use std::path::Path;

use mlxlm_cache::{CacheKind, Caches, Offset};
use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::weights::Tensors;
use mlxlm_core::{Array, io};
use mlxlm_core::{module, nn, ops};
use mlxlm_models::{CausalLm, LoadOptions, ModelConfig, ModelInfo, build_random, build_with};
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
    model_of(seed, config)
}

/// A real model of a configuration, with weights drawn from a seed.
pub(crate) fn model_of(seed: u64, config: Value) -> Box<dyn CausalLm> {
    build_random(&ModelConfig::new(config).unwrap(), seed).unwrap().model
}

/// What a head that predicts further tokens makes of a state and the embedding of the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joint {
    /// The embedding.
    Token,
    /// The state.
    State,
}

/// Which blocks add nothing to their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silent {
    None,
    Heads,
    All,
}

/// The paths and names of heads that predict further tokens: of a head, of its two norms and its map, of its block and its last norm.
fn head_names(config: &Value, head: usize) -> (String, [&'static str; 5]) {
    let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
    match config["model_type"].as_str().unwrap() {
        "qwen3_next" => ("mtp".into(), ["pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "layers.0", "norm"]),
        "mimo" => {
            let names = ["token_layernorm", "hidden_layernorm", "input_proj", "", "final_layernorm"];
            (format!("model.mtp_layers.{head}"), names)
        }
        _ => (format!("model.layers.{}", layers + head), ["enorm", "hnorm", "eh_proj", "", "shared_head.norm"]),
    }
}

/// A real model of a configuration, with weights drawn from a seed, and heads that predict further tokens, whose blocks are copies of
/// its last one.
pub(crate) fn with_heads(seed: u64, config: Value, joint: Joint, silent: Silent) -> Box<dyn CausalLm> {
    let (layers, dims) = (&config["num_hidden_layers"], config["hidden_size"].as_i64().unwrap() as i32);
    let last = format!("model.layers.{}.", layers.as_u64().unwrap() - 1);
    let mut tensors: Tensors = nn::parameters(model_of(seed, config.clone()).as_mut()).into_iter().collect();
    let of_model: Vec<String> = tensors.keys().cloned().collect();
    let (ones, zeros) = (ops::ones::<f32>(&[dims]).unwrap(), ops::zeros::<f32>(&[dims, dims]).unwrap());
    let same = ops::identity::<f32>(dims).unwrap();
    for head in 0..config["num_nextn_predict_layers"].as_u64().unwrap_or(1) as usize {
        let (path, [token_norm, state_norm, map, block, norm]) = head_names(&config, head);
        let block = nn::join(&path, block);
        let own = |(name, array): (&String, &Array)| Some((nn::join(&block, name.strip_prefix(&last)?), array.clone()));
        let copied: Vec<(String, Array)> = tensors.iter().filter_map(own).collect();
        tensors.extend(copied);
        for name in [token_norm, state_norm, norm] {
            tensors.insert(format!("{path}.{name}.weight"), ones.clone());
        }
        let token_first = config["model_type"] != "mimo";
        let halves = if (joint == Joint::Token) == token_first { [&same, &zeros] } else { [&zeros, &same] };
        tensors.insert(format!("{path}.{map}.weight"), ops::concatenate(&halves, 1).unwrap());
    }
    let outputs = ["o_proj.weight", "out_proj.weight", "down_proj.weight"];
    for (name, array) in &mut tensors {
        let is_silent = silent == Silent::All || silent == Silent::Heads && !of_model.contains(name);
        if is_silent && outputs.iter().any(|end| name.ends_with(end)) {
            *array = ops::zeros_like(&*array).unwrap();
        }
    }
    let options = LoadOptions { mtp: true, ..LoadOptions::default() };
    build_with(&ModelConfig::new(config).unwrap(), tensors, &options).unwrap().model
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
}

module!(Counter {});

impl CausalLm for Counter {
    /// The logits already: the head has nothing to do.
    fn hidden(&self, tokens: &Array, _caches: Option<&mut Caches>) -> mlxlm_models::Result<Array> {
        let [rows, len] = *tokens.shape() else { panic!("tokens of shape {:?}", tokens.shape()) };
        let mut logits = Vec::new();
        for token in tokens.to_vec_exact::<u32>().unwrap() {
            let peak = if self.poisoned == Some(token) { f32::NAN } else { 9.0 };
            logits.extend((0..V as u32).map(|id| if id == (token + 1) % V as u32 { peak } else { 0.0 }));
        }
        Ok(Array::from_slice(&logits, &[rows, len, V]))
    }

    fn head(&self, hidden: &Array) -> mlxlm_models::Result<Array> {
        Ok(hidden.clone())
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
        Offset::Rows(_) | Offset::Tokens(_) => panic!("caches of a batch"),
    }
}

/// The ids, or the first error.
pub(crate) fn ids(tokens: impl Iterator<Item = Result<crate::engine::Token>>) -> Result<Vec<u32>> {
    tokens.map(|token| Ok(token?.id)).collect()
}
