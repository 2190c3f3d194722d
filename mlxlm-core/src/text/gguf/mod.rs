//! The tokenizer that a GGUF file carries in its metadata, as the files that a model folder has for it.
//!
//! What becomes of each `tokenizer.ggml.model`:
//! - `gpt2`: merges of bytes, after the splits that `tokenizer.ggml.pre` names (`splits.rs`);
//! - `llama`: sentencepiece's BPE, whose merges follow from the scores; `gemma4`: the same with merges of its own (`pieces.rs`);
//! - `bert`: `WordPiece` (`words.rs`).
//!
//! Other models, as `t5` and `rwkv`, are refused by name. The reference for what comes out are the tokenizations that llama.cpp
//! keeps beside its vocabularies; `cargo xtask test --real` compares with all of them.

mod bytes;
mod pieces;
mod splits;
mod vocab;
mod words;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use self::vocab::{Kind, Vocab};
use super::{Tokenizer, TokenizerOptions};
use crate::weights::gguf::{GgufError, Metadata};
use crate::{Result, io};

/// Tokens that end an answer, whether or not the metadata names them: models with chat templates differ from their base in
/// which one that is, and converters forget it.
const ENDS: [&str; 12] = [
    "<EOT>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<turn|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<｜end▁of▁sentence｜>",
    "[EOT]",
];

/// The names of tokens in `tokenizer_config.json`, and the keys of their ids in the metadata (one of them misspelt there).
const NAMED: [(&str, &str); 7] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("cls_token", "tokenizer.ggml.cls_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];

/// The tokenizer of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    path: PathBuf,
    /// The content of `tokenizer.json`.
    content: Value,
    /// The content of `tokenizer_config.json`.
    config: Map<String, Value>,
    /// What ends a text, the most likely first.
    eos_token_ids: Vec<u32>,
}

impl GgufTokenizer {
    /// Reads the metadata of a file.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let vocab = Vocab::read(metadata)?;
        let content = match metadata.text("tokenizer.ggml.model")? {
            Some("gpt2") => bytes::tokenizer(&vocab)?,
            Some("llama") => pieces::by_scores(&vocab)?,
            Some("gemma4") => pieces::by_merges(&vocab)?,
            Some("bert") => words::tokenizer(&vocab)?,
            Some(other) => {
                let why = format!("is `{other}`, and the tokenizers that are read are gpt2, llama, gemma4 and bert");
                return Err(metadata.wrong("tokenizer.ggml.model", why).into());
            }
            None => return Err(metadata.wrong("tokenizer.ggml.model", "is missing").into()),
        };
        let (config, eos_token_ids) = (config(&vocab)?, ends(&vocab)?);
        Ok(Self { path: metadata.path().to_owned(), content, config, eos_token_ids })
    }

    /// Builds the tokenizer; what `options` say goes before what the file says.
    pub fn load(&self, options: &TokenizerOptions) -> Result<Tokenizer> {
        let mut config = self.config.clone();
        config.extend(options.config.clone());
        let eos_token_ids = options.eos_token_ids.clone().or_else(|| Some(self.eos_token_ids.clone()));
        let options = TokenizerOptions { eos_token_ids, config, ..options.clone() };
        Ok(Tokenizer::from_json(&self.path, &self.content, &options)?)
    }

    /// The ids after which generation stops, the most likely first; none if the file has no tokenizer.
    pub fn ends(metadata: &Metadata) -> Result<Vec<u32>> {
        match metadata.entries().contains_key("tokenizer.ggml.tokens") {
            true => Ok(ends(&Vocab::read(metadata)?)?),
            false => Ok(Vec::new()),
        }
    }

    /// Writes the files of the tokenizer into a model folder.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        io::write(folder.join("tokenizer.json"), self.content.to_string())?;
        io::write_json(folder.join("tokenizer_config.json"), &Value::Object(self.config.clone()))?;
        io::write_json(folder.join("generation_config.json"), &json!({"eos_token_id": self.eos_token_ids}))
    }
}

/// The content of `tokenizer_config.json`.
fn config(vocab: &Vocab) -> Result<Map<String, Value>, GgufError> {
    let mut config = Map::new();
    // The class that takes `tokenizer.json` as it is.
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    for (name, key) in NAMED {
        if let Some((_, token)) = vocab.named(key)? {
            config.insert(name.into(), token.into());
        }
    }
    if let Some(template) = templates(vocab.metadata)? {
        config.insert("chat_template".into(), template);
    }
    Ok(config)
}

/// The chat template, or all of them by name if there are several.
fn templates(metadata: &Metadata) -> Result<Option<Value>, GgufError> {
    let key = "tokenizer.chat_template";
    let default = metadata.text(key)?;
    let mut named = Vec::new();
    for name in metadata.texts("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(template) = metadata.text(&format!("{key}.{name}"))? {
            named.push(json!({"name": name, "template": template}));
        }
    }
    Ok(match (default, named.is_empty()) {
        (None, true) => None,
        (Some(only), true) => Some(only.into()),
        (default, false) => {
            let default = default.map(|template| json!({"name": "default", "template": template}));
            Some(default.into_iter().chain(named).collect())
        }
    })
}

fn ends(vocab: &Vocab) -> Result<Vec<u32>, GgufError> {
    let mut ids = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ids.extend(vocab.named(&format!("tokenizer.ggml.{name}_token_id"))?.map(|(id, _)| id));
    }
    let listed = |(id, token, kind)| (kind == Kind::Control && ENDS.contains(&token)).then_some(id);
    ids.extend(vocab.tokens().filter_map(listed));
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|&id| seen.insert(id));
    Ok(ids)
}

/// A `tokenizer.json` with these steps and the tokens of the vocabulary that are matched before a text is split.
fn content(vocab: &Vocab, steps: Steps) -> Result<Value, GgufError> {
    let Steps { normalizer, pre_tokenizer, decoder, model, adds_start, adds_end } = steps;
    let entries = [
        ("version", "1.0".into()),
        ("truncation", Value::Null),
        ("padding", Value::Null),
        ("added_tokens", vocab.added_tokens().into()),
        ("normalizer", normalizer),
        ("pre_tokenizer", pre_tokenizer),
        ("post_processor", vocab.surroundings(adds_start, adds_end)?),
        ("decoder", decoder),
        ("model", model),
    ];
    // Not by `json!`, which would copy the vocabulary.
    Ok(Value::Object(entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()))
}

/// A model of merges; `settings` replace the usual ones.
fn bpe<const N: usize>(ids: Map<String, Value>, merges: Vec<Value>, settings: [(&str, Value); N]) -> Value {
    let usual = [
        ("type", "BPE".into()),
        ("dropout", Value::Null),
        ("unk_token", Value::Null),
        ("continuing_subword_prefix", Value::Null),
        ("end_of_word_suffix", Value::Null),
        ("fuse_unk", false.into()),
        ("byte_fallback", false.into()),
        ("ignore_merges", false.into()),
    ];
    let tables = [("vocab", Value::Object(ids)), ("merges", Value::Array(merges))];
    let entries = usual.into_iter().chain(settings).chain(tables);
    Value::Object(entries.map(|(key, value)| (key.to_owned(), value)).collect())
}

/// What differs from one kind of tokenizer to another.
struct Steps {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether texts get a start token where the metadata does not say.
    adds_start: bool,
    /// Whether texts get an end token where the metadata does not say.
    adds_end: bool,
}

/// The pre-tokenizer that puts apart what matches a regular expression from what does not.
fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}
