//! The tokenizer of a folder as metadata of a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use mlxlm_core::weights::gguf::Value as Entry;
use serde_json::Value;

use super::export::{json, read_back};
use crate::{Error, Result};

/// Ways to split texts that llama.cpp knows by name, the most usual first.
const SPLITS: [&str; 21] = [
    "llama-bpe",
    "qwen2",
    "smollm",
    "gpt-2",
    "tekken",
    "qwen35",
    "gpt-4o",
    "stablelm2",
    "dbrx",
    "glm4",
    "command-r",
    "mpt",
    "falcon",
    "falcon3",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "bailingmoe",
    "bloom",
    "refact",
    "default",
];

/// A text in which ways to split differ.
const HARD: &str = "Hello, world! It's 3.14159 or 1234567890; I'LL we've  two  spaces\n\n\tTabs and  trailing   \r\n\
                    ünïcödé Ünïcode e\u{301} ﬁ 漢字かな交じり文 한국어 русский עברית हिन्दी 😀👩‍👩‍👧 <|x|> {\"a\": [1, 22, 333]} \
                    snake_case CamelCase HTTPServer 1/2 $5.00 a+b=c http://x.y/z?q=1#f def f(x):\n    return x**2  # done\n\n\n";

/// The numbers of kinds of tokens.
mod kind {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
    pub(super) const BYTE: i64 = 6;
}

/// The metadata of the tokenizer in a folder, whose model has `rows` tokens.
pub(super) fn entries(folder: &Path, rows: usize) -> Result<BTreeMap<String, Entry>> {
    let tokenizer = Tokenizer::from_folder(folder, &TokenizerOptions::default())?;
    let path = folder.join("tokenizer.json");
    let refuse = |why: &str| Error::config(format!("the tokenizer cannot be written as GGUF: {why}"));
    if !path.is_file() {
        return Err(refuse("there is no `tokenizer.json`"));
    }
    let content = json(&path)?;
    let model = content.get("model").cloned().unwrap_or_default();
    if model.get("type").and_then(Value::as_str).is_some_and(|name| name != "BPE") || model.get("merges").is_none() {
        return Err(refuse("it is not one of merges (BPE)"));
    }
    let is_bytes = content.get("decoder").is_some_and(|decoder| decoder.to_string().contains("ByteLevel"));
    let table = Table::read(&content, &model, rows.max(tokenizer.vocab_size()))?;
    let merges = merges(&model).ok_or_else(|| refuse("its merges are no pairs"))?;
    let mut entries = BTreeMap::new();
    let mut set = |key: &str, value: Entry| entries.insert(format!("tokenizer.ggml.{key}"), value);
    for (name, key) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some(id) = tokenizer.special_token_id(name) {
            set(&format!("{key}_token_id"), Entry::Integer(id.into()));
        }
    }
    let eos = tokenizer.special_token_id("eos_token");
    let mut others = tokenizer.eos_token_ids().iter().filter(|&&id| Some(id) != eos);
    match (eos, others.next()) {
        (None, Some(&id)) => drop(set("eos_token_id", Entry::Integer(id.into()))),
        (Some(_), Some(&id)) => drop(set("eot_token_id", Entry::Integer(id.into()))),
        _ => {}
    }
    let start = tokenizer.special_token_id("bos_token");
    let adds_start = start.is_some() && tokenizer.encode("a", true)?.first().copied() == start;
    set("add_bos_token", Entry::Bool(adds_start));
    set("add_eos_token", Entry::Bool(eos.is_some() && tokenizer.encode("a", true)?.last().copied() == eos));
    set("token_type", Entry::Integers(table.kinds.clone()));
    match is_bytes {
        true => {
            set("model", Entry::Text("gpt2".into()));
            set("merges", Entry::Texts(merges.iter().map(|(left, right)| format!("{left} {right}")).collect()));
        }
        false => {
            set("model", Entry::Text("llama".into()));
            set("scores", Entry::Floats(table.scores(&merges)));
            let adds_space = tokenizer.encode("a", false)? != tokenizer.encode("\u{2581}a", false)?
                && tokenizer.encode("a", false)?.first().and_then(|&id| tokenizer.id_to_token(id)).as_deref()
                    == Some("a");
            set("add_space_prefix", Entry::Bool(!adds_space));
        }
    }
    set("tokens", Entry::Texts(table.tokens));
    if let Some(template) = tokenizer.chat_template() {
        entries.insert("tokenizer.chat_template".into(), Entry::Text(template.to_owned()));
    }
    let expected = tokenizer.encode(HARD, false)?;
    let candidates: &[&str] = if is_bytes { &SPLITS } else { &["default"] };
    for name in candidates {
        entries.insert("tokenizer.ggml.pre".into(), Entry::Text((*name).to_owned()));
        if read_back(&entries)?.encode(HARD, false)? == expected {
            return Ok(entries);
        }
    }
    Err(refuse("it splits texts in none of the ways that llama.cpp knows"))
}

/// The tokens by id.
struct Table {
    tokens: Vec<String>,
    kinds: Vec<i64>,
}

impl Table {
    fn read(content: &Value, model: &Value, rows: usize) -> Result<Self> {
        let unused = |id: usize| format!("[PAD{id}]");
        let mut table = Self { tokens: (0..rows).map(unused).collect(), kinds: vec![kind::UNUSED; rows] };
        let unknown = model.get("unk_token").and_then(Value::as_str);
        for (token, id) in model.get("vocab").and_then(Value::as_object).into_iter().flatten() {
            let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            let kind = match () {
                () if Some(token.as_str()) == unknown => kind::UNKNOWN,
                () if is_byte => kind::BYTE,
                () => kind::NORMAL,
            };
            table.set(id, token, kind)?;
        }
        for token in content.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let text = token.get("content").and_then(Value::as_str).unwrap_or_default();
            let kind = match token.get("special").and_then(Value::as_bool) {
                _ if Some(text) == unknown => kind::UNKNOWN,
                Some(true) => kind::CONTROL,
                _ => kind::USER_DEFINED,
            };
            table.set(token.get("id").unwrap_or(&Value::Null), text, kind)?;
        }
        Ok(table)
    }

    fn set(&mut self, id: &Value, token: &str, kind: i64) -> Result<()> {
        let place = id.as_u64().map(|id| id as usize).filter(|&id| id < self.tokens.len());
        let place = place.ok_or_else(|| {
            let rows = self.tokens.len();
            Error::config(format!("the token `{token}` has the id {id}, and the model has {rows} rows"))
        })?;
        (self.tokens[place], self.kinds[place]) = (token.to_owned(), kind);
        Ok(())
    }

    /// Scores that put pieces into the order of the merges that make them.
    fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
        for (rank, (left, right)) in merges.iter().enumerate() {
            ranks.entry(format!("{left}{right}")).or_insert(rank);
        }
        let score = |(token, kind): (&String, &i64)| match ranks.get(token) {
            Some(&rank) if *kind == kind::NORMAL => -(rank as f32) - 1.0,
            _ if *kind == kind::NORMAL => -(merges.len() as f32) - 2.0,
            _ => 0.0,
        };
        self.tokens.iter().zip(&self.kinds).map(score).collect()
    }
}

/// The merges in their order, however they are written.
fn merges(model: &Value) -> Option<Vec<(String, String)>> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Value::Array(pair) => Some((pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
        _ => None,
    };
    model.get("merges")?.as_array()?.iter().map(pair).collect()
}
