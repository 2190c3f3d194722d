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
use crate::text::{ChatTemplate, Detokenizer, DetokenizerKind, TemplateOptions, TextError, Thinking};

/// Files of tokenizers that are not read here.
const OTHER_FORMATS: [&str; 5] = ["spiece.model", "tiktoken.model", "qwen.tiktoken", "tekken.json", "vocab.json"];

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
    detokenizer: DetokenizerKind,
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
        let (mut codec, detokenizer) = match (json.is_file(), model.is_file()) {
            (true, _) => Codec::open(&json)?,
            (false, true) => Codec::open_sentencepiece(&model)?,
            (false, false) => {
                let found = OTHER_FORMATS.into_iter().find(|name| folder.join(name).is_file());
                return Err(TextError::NoTokenizer { folder: folder.to_owned(), found }.into());
            }
        };
        let mut config = Config::read(folder, &options.config)?;
        if llama::applies(
            config.tokenizer_class.as_deref(),
            config::read_model_type(folder)?.as_deref(),
            codec.byte_level,
        ) {
            codec.rebuild_as(config.llama)?;
            for (name, token) in llama::DEFAULT_NAMES {
                config.name_token(name, token);
            }
        }
        for (name, token) in &codec.named_tokens {
            config.name_token(name, token);
        }
        codec.add_tokens(&missing_tokens(&codec, &config))?;
        if !json.is_file() {
            let (bos, eos) = config.add_bos_eos;
            codec.surround(config.named("bos_token").filter(|_| bos), config.named("eos_token").filter(|_| eos))?;
        }
        if config.tokenizer_class.as_deref() == Some("NewlineTokenizer") {
            codec.use_newline_marks();
        }
        if config.clean_up_spaces {
            codec.clean_up_spaces();
        }

        let mut eos_token_ids: BTreeSet<u32> = match &options.eos_token_ids {
            Some(ids) => ids.iter().copied().collect(),
            None => config::read_eos_token_ids(folder)?.into_iter().collect(),
        };
        eos_token_ids.extend(config.named("eos_token").and_then(|token| codec.id(token)));

        let thinking = Thinking::infer(|token| codec.id(token), |text| codec.encode(text, false))?;
        let templates = match &options.chat_template {
            Some(source) => vec![("default".to_owned(), source.clone())],
            None => config.templates,
        };
        Ok(Self {
            codec: Arc::new(codec),
            detokenizer,
            named_tokens: config.named_tokens.into_iter().map(|(name, token)| (name, token.content)).collect(),
            eos_token_ids,
            thinking,
            templates: templates
                .into_iter()
                .map(|(name, source)| Template { name, source, compiled: OnceLock::new() })
                .collect(),
            chat_template_type: config.chat_template_type.filter(|_| options.chat_template.is_none()),
        })
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
        Detokenizer::new(Arc::clone(&self.codec), self.detokenizer)
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
            .field("detokenizer", &self.detokenizer)
            .field("named_tokens", &self.named_tokens)
            .field("eos_token_ids", &self.eos_token_ids)
            .field("thinking", &self.thinking)
            .finish_non_exhaustive()
    }
}
