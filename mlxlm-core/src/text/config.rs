//! What a model folder says of its tokenizer beside `tokenizer.json`: named tokens, added tokens, chat templates and the
//! ids that end a text.
//!
//! Files: `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` (older folders), `chat_template.jinja`,
//! `additional_chat_templates/*.jinja`, `chat_template.json`, and `eos_token_id` of `config.json` and
//! `generation_config.json`. Which of them wins follows `PreTrainedTokenizerBase._from_pretrained` of transformers 5 and
//! `load_config` of `mlx_lm/utils.py` 0.32.2. Every file may be absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::text::TextError;
use crate::text::llama::LlamaClass;
use crate::{Result, io};

/// Names that transformers knows; a model may have more, as in `image_token`.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The settings of a tokenizer.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// Tokens with a name, such as `bos_token`, which chat templates see under it.
    pub(crate) named_tokens: Vec<(String, AddedToken)>,
    /// Further special tokens.
    pub(crate) extra_tokens: Vec<AddedToken>,
    /// Tokens that the folder adds to the vocabulary, by id.
    pub(crate) added_tokens: Vec<AddedToken>,
    /// Chat templates as name and source.
    pub(crate) templates: Vec<(String, String)>,
    /// The class that transformers would use.
    pub(crate) tokenizer_class: Option<String>,
    /// A chat template in Python code that mlx-lm would use.
    pub(crate) chat_template_type: Option<String>,
    /// Whether decoded text loses the spaces before punctuation.
    pub(crate) clean_up_spaces: bool,
    /// Whether texts get the start token, the end token; `tokenizer.json` says so itself.
    pub(crate) add_bos_eos: (bool, bool),
    /// The settings of the class, if it is Llama's.
    pub(crate) llama: LlamaClass,
}

impl Config {
    /// Reads the settings in `folder`; `overrides` replace keys of `tokenizer_config.json`.
    pub(crate) fn read(folder: &Path, overrides: &Map<String, Value>) -> Result<Self> {
        let mut file = Fields::read(folder.join("tokenizer_config.json"))?;
        file.fields.extend(overrides.clone());
        if !file.has("added_tokens_decoder") {
            let older = Fields::read(folder.join("special_tokens_map.json"))?;
            for (key, value) in older.fields {
                if !overrides.contains_key(&key) {
                    file.fields.insert(key, value);
                }
            }
        }
        let mut config = Self::of(&file)?;
        if config.added_tokens.is_empty() {
            config.added_tokens = config.older_added_tokens(folder.join("added_tokens.json"))?;
        }
        if !overrides.contains_key("chat_template") {
            config.templates = read_templates(folder, config.templates)?;
        }
        Ok(config)
    }

    /// The settings in the content of a `tokenizer_config.json`; `path` is where it comes from, for errors.
    pub(crate) fn from_fields(path: &Path, fields: &Map<String, Value>) -> Result<Self, TextError> {
        Self::of(&Fields { path: path.to_owned(), fields: fields.clone() })
    }

    fn of(file: &Fields) -> Result<Self, TextError> {
        let mut config = Self::default();
        if file.has("added_tokens_decoder") {
            config.added_tokens = file.added_tokens_decoder()?;
        }
        config.read_special_tokens(file)?;
        config.tokenizer_class = file.string("tokenizer_class")?;
        config.chat_template_type = file.string("chat_template_type")?;
        config.llama = LlamaClass::of(&file.fields);
        let flag = |key: &str| file.fields.get(key).and_then(Value::as_bool) == Some(true);
        config.add_bos_eos = (flag("add_bos_token"), flag("add_eos_token"));
        config.clean_up_spaces = flag("clean_up_tokenization_spaces");
        config.templates = file.templates()?;
        Ok(config)
    }

    /// A token by its name.
    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.named_tokens.iter().find(|(known, _)| known == name).map(|(_, token)| token.content.as_str())
    }

    /// Names a token, unless the folder names one so.
    pub(crate) fn name_token(&mut self, name: &str, token: &str) {
        if !self.named_tokens.iter().any(|(known, _)| known == name) {
            self.named_tokens.push((name.into(), AddedToken::from(token, true)));
        }
    }

    fn read_special_tokens(&mut self, file: &Fields) -> Result<(), TextError> {
        for name in NAMED_TOKENS {
            if let Some(token) = file.token(name)? {
                self.named_tokens.push((name.into(), token));
            }
        }
        for (name, value) in &file.fields {
            let is_new = !NAMED_TOKENS.contains(&name.as_str());
            if let (true, true, Some(content)) = (is_new, name.ends_with("_token"), value.as_str()) {
                self.named_tokens.push((name.clone(), AddedToken::from(content, true)));
            }
        }
        let key = ["extra_special_tokens", "additional_special_tokens"]
            .into_iter()
            .find(|key| file.has(key) && file.fields[*key] != Value::Array(vec![]));
        let Some(key) = key else { return Ok(()) };
        match &file.fields[key] {
            Value::Array(tokens) => {
                for token in tokens {
                    let token = added_token(token, true).ok_or_else(|| file.bad(key, "a list of tokens"))?;
                    self.extra_tokens.push(token);
                }
            }
            Value::Object(tokens) => {
                for (name, token) in tokens {
                    let token = added_token(token, true).ok_or_else(|| file.bad(key, "an object of tokens"))?;
                    self.named_tokens.push((name.clone(), token));
                }
            }
            _ => return Err(file.bad(key, "a list of tokens")),
        }
        Ok(())
    }

    /// `added_tokens.json`: an object of ids by token.
    fn older_added_tokens(&self, path: PathBuf) -> Result<Vec<AddedToken>> {
        let file = Fields::read(path)?;
        let is_special = |content: &str| {
            let named = self.named_tokens.iter().map(|(_, token)| token);
            named.chain(&self.extra_tokens).any(|token| token.content == content)
        };
        let mut by_id = BTreeMap::new();
        for (content, id) in &file.fields {
            let id = id.as_u64().ok_or_else(|| file.bad(content, "a token id"))?;
            by_id.insert(id, AddedToken::from(content.as_str(), is_special(content)));
        }
        Ok(by_id.into_values().collect())
    }
}

/// The `eos_token_id` of the model, a number or a list: that of `generation_config.json`, else that of `config.json`. One
/// that names no token (null, an empty list, negative numbers) counts as absent.
pub(crate) fn read_eos_token_ids(folder: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let file = Fields::read(folder.join(name))?;
        let Some(value) = file.fields.get("eos_token_id") else { continue };
        let ids = token_ids(value).ok_or_else(|| file.bad("eos_token_id", "a token id or a list of them"))?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

/// The `model_type` in `config.json`.
pub(crate) fn read_model_type(folder: &Path) -> Result<Option<String>> {
    Ok(Fields::read(folder.join("config.json"))?.string("model_type")?)
}

/// What an `eos_token_id` names: a token id, or a list of them. Null and negative numbers name no token and are left
/// out; `None` where something else is not a token id.
pub fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    let names_one = |value: &&Value| !value.is_null() && value.as_i64().is_none_or(|id| id >= 0);
    values.iter().filter(names_one).map(|value| u32::try_from(value.as_u64()?).ok()).collect()
}

/// Templates in files of their own go before those in `tokenizer_config.json` (`configured`), and these before
/// `chat_template.json`, which transformers reads for processors only.
fn read_templates(folder: &Path, configured: Vec<(String, String)>) -> Result<Vec<(String, String)>> {
    let mut templates = Vec::new();
    let default = folder.join("chat_template.jinja");
    if default.is_file() {
        templates.push(("default".to_owned(), io::read_to_string(&default)?));
    }
    let more = folder.join("additional_chat_templates");
    for path in if more.is_dir() { io::read_dir(&more)? } else { Vec::new() } {
        if path.extension().is_some_and(|extension| extension == "jinja") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            templates.push((name, io::read_to_string(&path)?));
        }
    }
    templates.retain(has_text);
    if templates.is_empty() {
        templates = configured;
    }
    if templates.is_empty() {
        templates = Fields::read(folder.join("chat_template.json"))?.templates()?;
    }
    Ok(templates)
}

/// Whether a template, as name and source, has any text; one that has none counts as absent.
pub(crate) fn has_text((_, source): &(String, String)) -> bool {
    !source.trim().is_empty()
}

/// A JSON object with the path it came from.
struct Fields {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Fields {
    /// Reads a file that holds an object; a file that is not there is an empty one.
    fn read(path: PathBuf) -> Result<Self> {
        let fields = if path.is_file() { io::read_json(&path)? } else { Map::new() };
        Ok(Self { path, fields })
    }

    /// Whether there is a value under the key, other than null.
    fn has(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(|value| !value.is_null())
    }

    fn bad(&self, key: &str, expected: &'static str) -> TextError {
        TextError::BadField { path: self.path.clone(), key: key.into(), expected }
    }

    fn string(&self, key: &str) -> Result<Option<String>, TextError> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.bad(key, "a string")),
        }
    }

    fn token(&self, key: &str) -> Result<Option<AddedToken>, TextError> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => added_token(value, true).map(Some).ok_or_else(|| self.bad(key, "a token")),
        }
    }

    /// `added_tokens_decoder`: an object of tokens by id.
    fn added_tokens_decoder(&self) -> Result<Vec<AddedToken>, TextError> {
        let key = "added_tokens_decoder";
        let tokens = self.fields[key].as_object().ok_or_else(|| self.bad(key, "an object of tokens by id"))?;
        let mut by_id = BTreeMap::new();
        for (id, token) in tokens {
            let bad = || self.bad(&format!("{key}.{id}"), "a token under its id");
            let id: u32 = id.parse().map_err(|_| bad())?;
            by_id.insert(id, added_token(token, false).filter(|_| token.is_object()).ok_or_else(bad)?);
        }
        Ok(by_id.into_values().collect())
    }

    /// `chat_template`: a source, or a list of named sources.
    fn templates(&self) -> Result<Vec<(String, String)>, TextError> {
        let mut templates = self.all_templates()?;
        templates.retain(has_text);
        Ok(templates)
    }

    fn all_templates(&self) -> Result<Vec<(String, String)>, TextError> {
        let key = "chat_template";
        let bad = || self.bad(key, "a template or a list of templates with `name` and `template`");
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(source)) => Ok(vec![("default".into(), source.clone())]),
            Some(Value::Array(named)) => named
                .iter()
                .map(|one| Some((one.get("name")?.as_str()?.to_owned(), one.get("template")?.as_str()?.to_owned())))
                .collect::<Option<_>>()
                .ok_or_else(bad),
            Some(Value::Object(named)) => named
                .iter()
                .map(|(name, source)| Some((name.clone(), source.as_str()?.to_owned())))
                .collect::<Option<_>>()
                .ok_or_else(bad),
            Some(_) => Err(bad()),
        }
    }
}

/// A token given as its text, or as an object with its properties.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let Value::Object(fields) = value else { return value.as_str().map(|content| AddedToken::from(content, special)) };
    let flag = |key: &str| fields.get(key).and_then(Value::as_bool);
    let special = special || flag("special") == Some(true);
    let mut token = AddedToken::from(fields.get("content")?.as_str()?, special);
    token.single_word = flag("single_word").unwrap_or(token.single_word);
    token.lstrip = flag("lstrip").unwrap_or(token.lstrip);
    token.rstrip = flag("rstrip").unwrap_or(token.rstrip);
    token.normalized = flag("normalized").unwrap_or(token.normalized);
    Some(token)
}
