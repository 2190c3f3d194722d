//! The tokenizer of a model folder.
//!
//! Reference: `TokenizerWrapper` and `load` of `mlx_lm/tokenizer_utils.py` 0.32.2 over transformers' `TokenizersBackend`.
//!
//! Unusual:
//! - `tokenizer.json` is taken as it is, except for one class (see `llama.rs`).
//! - `add_eos_token` refuses an unknown token, where the reference takes the unknown token's id for it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::Result;
use crate::text::codec::Codec;
use crate::text::config::{self, Config};
use crate::text::llama;
use crate::text::{ChatTemplate, Detokenizer, TemplateOptions, TextError, Thinking};

/// Files of tokenizers that are not read here.
const OTHER_FORMATS: [&str; 5] = ["spiece.model", "tiktoken.model", "qwen.tiktoken", "tekken.json", "vocab.json"];

/// How much of a text is looked at to see that it is too long, in bytes for each token that is allowed. Tokens have four
/// bytes on average, so that the beginning of a text has far too many already.
const CHECKED_BYTES_A_TOKEN: usize = 16;

/// How to load a tokenizer.
#[derive(Clone, Debug, Default)]
pub struct TokenizerOptions {
    /// The ids that end a text, besides the tokenizer's own; `None` takes `eos_token_id` from `generation_config.json` or
    /// `config.json` in the folder.
    pub eos_token_ids: Option<Vec<u32>>,
    /// A chat template to use instead of the model's.
    pub chat_template: Option<String>,
    /// Keys that replace those of `tokenizer_config.json`.
    pub config: Map<String, Value>,
}

/// Text to tokens and back, and messages to a prompt. Cloning it is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    codec: Arc<Codec>,
    named_tokens: Arc<[(String, String)]>,
    eos_token_ids: BTreeSet<u32>,
    thinking: Option<Thinking>,
    templates: Arc<[Template]>,
    chat_template_type: Option<String>,
}

/// A named chat template, compiled when it is first used.
struct Template {
    name: String,
    source: String,
    compiled: OnceLock<ChatTemplate>,
}

impl Template {
    fn compiled(&self) -> Result<&ChatTemplate, TextError> {
        if let Some(compiled) = self.compiled.get() {
            return Ok(compiled);
        }
        let compiled = ChatTemplate::new(&self.source)?;
        Ok(self.compiled.get_or_init(|| compiled))
    }
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder: `tokenizer.json`, else `tokenizer.model` of sentencepiece.
    pub fn from_folder(folder: impl AsRef<Path>, options: &TokenizerOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let [json, model] = ["tokenizer.json", "tokenizer.model"].map(|name| folder.join(name));
        let codec = match (json.is_file(), model.is_file()) {
            (true, _) => Codec::open(&json)?,
            (false, true) => Codec::open_sentencepiece(&model)?,
            (false, false) => {
                let found = OTHER_FORMATS.into_iter().find(|name| folder.join(name).is_file());
                return Err(TextError::NoTokenizer { folder: folder.to_owned(), found }.into());
            }
        };
        let config = Config::read(folder, &options.config)?;
        let eos_token_ids = match &options.eos_token_ids {
            Some(ids) => ids.clone(),
            None => config::read_eos_token_ids(folder)?,
        };
        let model_type = config::read_model_type(folder)?;
        let parts = Parts { codec, config, eos_token_ids, model_type, adds_bos_eos: !json.is_file() };
        Ok(parts.assemble(options)?)
    }

    /// Builds a tokenizer from the content of a `tokenizer.json`, for formats that carry one some other way.
    ///
    /// `options.config` holds all that `tokenizer_config.json` would: `bos_token`, `eos_token`, `chat_template` (a source,
    /// or sources by name), …; `options.eos_token_ids` are the ids that end a text besides the one of `eos_token`. `path`
    /// is the file that all this comes from, for errors. No file is read.
    ///
    /// ```
    /// use mlxlm_core::text::{Tokenizer, TokenizerOptions};
    /// use serde_json::json;
    /// # fn main() -> Result<(), mlxlm_core::text::TextError> {
    /// let content = json!({
    ///     "added_tokens": [{"id": 2, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
    ///         "rstrip": false, "normalized": false}],
    ///     "decoder": {"type": "Fuse"},
    ///     "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<end>": 2}, "merges": []},
    /// });
    /// let config = json!({"eos_token": "<end>", "chat_template": "{{ messages[0].content }}"});
    /// let config = config.as_object().cloned().unwrap_or_default();
    /// let options = TokenizerOptions { config, eos_token_ids: Some(vec![1]), ..TokenizerOptions::default() };
    /// let tokenizer = Tokenizer::from_json("model.gguf", &content, &options)?;
    /// assert!(tokenizer.eos_token_ids().iter().eq(&[1, 2]));
    /// assert!(tokenizer.has_chat_template());
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_json(path: impl AsRef<Path>, content: &Value, options: &TokenizerOptions) -> Result<Self, TextError> {
        let path = path.as_ref();
        let bytes = serde_json::to_vec(content)
            .map_err(|error| TextError::BadTokenizer { path: path.to_owned(), reason: error.to_string() })?;
        let codec = Codec::from_json(path, bytes)?;
        let config = Config::from_fields(path, &options.config)?;
        let eos_token_ids = options.eos_token_ids.clone().unwrap_or_default();
        Parts { codec, config, eos_token_ids, model_type: None, adds_bos_eos: false }.assemble(options)
    }

    /// The ids of a text. `add_special_tokens` adds what the model wants around it, most often its start token.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        Ok(self.codec.encode(text, add_special_tokens)?)
    }

    /// The ids of a prompt given as plain text: with special tokens, unless it starts with the start token already.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>> {
        let has_bos = self.special_token("bos_token").is_some_and(|bos| prompt.starts_with(bos));
        self.encode(prompt, !has_bos)
    }

    /// Refuses a text that has far more than `limit` tokens, before all of it is tokenized: tokenizing takes some hundred
    /// bytes of memory for each character. Where it passes, the text may still be too long.
    pub fn check_length(&self, text: &str, limit: usize) -> Result<()> {
        let beginning = &text[..text.floor_char_boundary(limit.saturating_mul(CHECKED_BYTES_A_TOKEN))];
        if beginning.len() == text.len() {
            return Ok(());
        }
        match self.encode(beginning, false)?.len() {
            tokens if tokens > limit.saturating_mul(2) => Err(TextError::TooManyTokens { tokens, limit }.into()),
            _ => Ok(()),
        }
    }

    /// The text of ids, special tokens included; ids that are no tokens are left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.codec.decode(ids, false)?)
    }

    /// The text of ids without special tokens.
    pub fn decode_without_special_tokens(&self, ids: &[u32]) -> Result<String> {
        Ok(self.codec.decode(ids, true)?)
    }

    /// The number of tokens, those that were added included.
    pub fn vocab_size(&self) -> usize {
        self.codec.len()
    }

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.codec.id(token)
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.codec.token(id)
    }

    /// The bytes that a token adds to a text in which others stand before and after it: `Some(" word")` for `Ġword` and
    /// `▁word`, one byte for `<0xE6>`, its own text for an added token.
    ///
    /// Nothing where the id is no token, or where the text depends on the tokens beside it (a decoder that drops doubled
    /// tokens, or that replaces strings across tokens). What a decoder does at the ends of a text is not in it: a text that
    /// starts with `▁word` starts with `word`.
    ///
    /// ```
    /// # use mlxlm_core::text::{Tokenizer, TokenizerOptions};
    /// # use serde_json::json;
    /// # fn main() -> Result<(), mlxlm_core::text::TextError> {
    /// let content = json!({
    ///     "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ///     "model": {"type": "BPE", "vocab": {"Ġa": 0, "æĹ": 1}, "merges": []},
    /// });
    /// let tokenizer = Tokenizer::from_json("tokenizer.json", &content, &TokenizerOptions::default())?;
    /// assert_eq!(tokenizer.token_bytes(0).as_deref(), Some(&b" a"[..]));
    /// assert_eq!(tokenizer.token_bytes(1).as_deref(), Some(&[0xe6, 0x97][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.codec.token_bytes(id)
    }

    /// Whether a token is a special one, which [`Self::decode_without_special_tokens`] leaves out.
    pub fn is_special_token(&self, id: u32) -> bool {
        self.codec.is_special(id)
    }

    /// A token by its name in `tokenizer_config.json`, such as `bos_token` or `pad_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.named_tokens.iter().find(|(known, _)| known == name).map(|(_, token)| token.as_str())
    }

    /// The id of a token by its name, such as `bos_token`.
    pub fn special_token_id(&self, name: &str) -> Option<u32> {
        self.special_token(name).and_then(|token| self.codec.id(token))
    }

    /// The ids after which generation stops.
    pub fn eos_token_ids(&self) -> &BTreeSet<u32> {
        &self.eos_token_ids
    }

    /// Lets a further token end a text; a string of digits is an id. Returns the id.
    pub fn add_eos_token(&mut self, token: &str) -> Result<u32> {
        let id = token.trim().parse().ok().or_else(|| self.codec.id(token));
        let id = id.ok_or_else(|| TextError::UnknownToken(token.into()))?;
        self.eos_token_ids.insert(id);
        Ok(id)
    }

    /// A streaming detokenizer for a new text.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.codec))
    }

    /// The marks around the model's thinking, where its vocabulary has them.
    pub fn thinking(&self) -> Option<&Thinking> {
        self.thinking.as_ref()
    }

    /// Whether the vocabulary has marks for thinking.
    pub fn has_thinking(&self) -> bool {
        self.thinking.is_some()
    }

    /// Whether [`Self::apply_chat_template`] can work.
    pub fn has_chat_template(&self) -> bool {
        !self.templates.is_empty() || self.chat_template_type.is_some()
    }

    /// The source of the chat template for conversations without tools.
    pub fn chat_template(&self) -> Option<&str> {
        self.template(None, false).ok().map(|template| template.source.as_str())
    }

    /// Renders messages to a prompt. The template sees the named tokens, `enable_thinking` (whether the vocabulary has
    /// marks for it, unless `options.kwargs` says otherwise), and what `options` hold.
    pub fn apply_chat_template(&self, messages: &[Value], options: &TemplateOptions) -> Result<String> {
        if let Some(kind) = &self.chat_template_type {
            return Err(TextError::TemplateType(kind.clone()).into());
        }
        let has_tools = options.tools().is_some();
        let template = self.template(options.template.as_deref(), has_tools)?;
        let compiled = template.compiled()?;
        let mut variables: Map<String, Value> =
            self.named_tokens.iter().map(|(name, token)| (name.clone(), token.as_str().into())).collect();
        variables.insert("enable_thinking".into(), self.has_thinking().into());
        Ok(compiled.render(messages, variables, options)?)
    }

    /// The ids of [`Self::apply_chat_template`]'s prompt; the template writes all special tokens itself.
    pub fn encode_chat(&self, messages: &[Value], options: &TemplateOptions) -> Result<Vec<u32>> {
        self.encode(&self.apply_chat_template(messages, options)?, false)
    }

    /// The template of a name; without one, `tool_use` for tools where there is one, else `default`.
    fn template(&self, name: Option<&str>, has_tools: bool) -> Result<&Template, TextError> {
        let find = |name: &str| self.templates.iter().find(|template| template.name == name);
        let found = match name {
            Some(name) => find(name),
            None => find("tool_use").filter(|_| has_tools).or_else(|| find("default")),
        };
        if self.templates.is_empty() {
            return Err(TextError::NoChatTemplate);
        }
        found.ok_or_else(|| TextError::NoSuchTemplate {
            asked: name.unwrap_or("default").into(),
            names: self.templates.iter().map(|template| template.name.clone()).collect(),
        })
    }
}

/// What a tokenizer is made of, wherever it comes from.
struct Parts {
    codec: Codec,
    config: Config,
    /// The ids that end a text, besides the tokenizer's own.
    eos_token_ids: Vec<u32>,
    /// The `model_type` in `config.json`.
    model_type: Option<String>,
    /// Whether the settings say if texts get a start and an end token, rather than the steps of the codec itself.
    adds_bos_eos: bool,
}

impl Parts {
    fn assemble(self, options: &TokenizerOptions) -> Result<Tokenizer, TextError> {
        let Self { mut codec, mut config, eos_token_ids, model_type, adds_bos_eos } = self;
        if llama::applies(config.tokenizer_class.as_deref(), model_type.as_deref(), codec.byte_level) {
            codec.rebuild_as(config.llama)?;
            for (name, token) in llama::DEFAULT_NAMES {
                config.name_token(name, token);
            }
        }
        for (name, token) in &codec.named_tokens {
            config.name_token(name, token);
        }
        codec.add_tokens(&missing_tokens(&codec, &config))?;
        if adds_bos_eos {
            let (bos, eos) = config.add_bos_eos;
            codec.surround(config.named("bos_token").filter(|_| bos), config.named("eos_token").filter(|_| eos))?;
        }
        if config.clean_up_spaces {
            codec.clean_up_spaces();
        }
        if config.tokenizer_class.as_deref() == Some("NewlineTokenizer") {
            codec.use_newline_marks();
        }
        let mut eos_token_ids: BTreeSet<u32> = eos_token_ids.into_iter().collect();
        eos_token_ids.extend(config.named("eos_token").and_then(|token| codec.id(token)));
        let thinking = Thinking::infer(|token| codec.id(token), |text| codec.encode(text, false))?;
        let templates = match &options.chat_template {
            Some(source) => vec![("default".to_owned(), source.clone())],
            None => config.templates,
        };
        Ok(Tokenizer {
            codec: Arc::new(codec),
            named_tokens: config.named_tokens.into_iter().map(|(name, token)| (name, token.content)).collect(),
            eos_token_ids,
            thinking,
            templates: templates
                .into_iter()
                .filter(config::has_text)
                .map(|(name, source)| Template { name, source, compiled: OnceLock::new() })
                .collect(),
            chat_template_type: config.chat_template_type.filter(|_| options.chat_template.is_none()),
        })
    }
}

/// The tokens that the folder's settings have and `tokenizer.json` has not, or has with other properties.
fn missing_tokens(codec: &Codec, config: &Config) -> Vec<AddedToken> {
    let properties = |t: &AddedToken| (t.content.clone(), t.single_word, t.lstrip, t.rstrip, t.normalized, t.special);
    let known = codec.added_tokens();
    let same: HashSet<_> = known.iter().map(properties).collect();
    let mut missing: Vec<AddedToken> =
        config.added_tokens.iter().filter(|token| !same.contains(&properties(token))).cloned().collect();
    let mut seen: HashSet<String> = known.iter().chain(&missing).map(|token| token.content.clone()).collect();
    let named = config.named_tokens.iter().map(|(_, token)| token);
    for token in named.clone().chain(&config.extra_tokens) {
        if seen.insert(token.content.clone()) {
            missing.push(token.clone());
        }
    }
    let named: HashSet<&str> = named.map(|token| token.content.as_str()).collect();
    for token in &mut missing {
        token.special |= named.contains(token.content.as_str());
    }
    missing
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("named_tokens", &self.named_tokens)
            .field("eos_token_ids", &self.eos_token_ids)
            .field("thinking", &self.thinking)
            .finish_non_exhaustive()
    }
}
