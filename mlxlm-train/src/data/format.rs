//! From rows of a dataset to tokens: conversations, questions with answers, texts, and preferences.
//!
//! Ports `create_dataset` and the classes of `mlx_lm/tuner/datasets.py` @ 0.32.2. Unusual: every row says by its own fields
//! what it is, and one that is of another kind than the first is a fault.

use mlxlm_core::text::{TemplateOptions, Tokenizer};
use serde_json::{Map, Value, json};

use super::read::{Record, kind};
use super::{Example, Keys, Preference};

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A better and a worse answer.
    Preference,
    /// A question and an answer.
    Completion,
    /// A conversation.
    Chat,
    /// A text.
    Text,
}

impl Kind {
    /// What the fields of a row say, in the order in which the reference asks.
    pub fn of(fields: &Map<String, Value>, keys: &Keys) -> Option<Self> {
        let has = |key: &str| fields.contains_key(key);
        match () {
            () if has(&keys.chosen) && has(&keys.rejected) => Some(Self::Preference),
            () if has(&keys.prompt) && has(&keys.completion) => Some(Self::Completion),
            () if has(&keys.chat) => Some(Self::Chat),
            () if has(&keys.text) => Some(Self::Text),
            () => None,
        }
    }

    /// Its name, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preference => "a preference",
            Self::Completion => "a prompt with a completion",
            Self::Chat => "a conversation",
            Self::Text => "a text",
        }
    }
}

/// Makes tokens of rows.
#[derive(Clone, Copy)]
pub struct Format<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The names of the fields.
    pub keys: &'a Keys,
    /// Whether prompts are not learned.
    pub mask_prompt: bool,
}

impl Format<'_> {
    /// The tokens of a row that is no preference.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn example(&self, record: &Record) -> Result<Example, String> {
        let fields = &record.fields;
        let example = match Kind::of(fields, self.keys) {
            Some(Kind::Completion) => {
                let prompt = message("user", text(fields, &self.keys.prompt)?);
                let completion = message("assistant", text(fields, &self.keys.completion)?);
                self.conversation(&[prompt, completion], fields, self.mask_prompt)?
            }
            Some(Kind::Chat) => {
                let messages = messages(fields.get(&self.keys.chat), &self.keys.chat)?;
                self.conversation(&messages, fields, self.mask_prompt)?
            }
            Some(Kind::Text) if self.mask_prompt => {
                return Err("it is a text, which has no prompt that could be masked".into());
            }
            Some(Kind::Text) => self.text(text(fields, &self.keys.text)?)?,
            Some(Kind::Preference) => return Err("it is a preference, expected a text or a conversation".into()),
            None => return Err(self.unknown(fields)),
        };
        whole(example)
    }

    /// The tokens of both answers of a preference.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn preference(&self, record: &Record) -> Result<Preference, String> {
        let fields = &record.fields;
        if Kind::of(fields, self.keys) != Some(Kind::Preference) {
            return Err(self.unknown(fields));
        }
        let prompt = match fields.get(&self.keys.prompt) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(prompt)) => vec![message("user", prompt)],
            other => messages(other, &self.keys.prompt)?,
        };
        let answer = |key: &str| -> Result<Example, String> {
            let mut all = prompt.clone();
            match fields.get(key) {
                Some(Value::String(answer)) if !prompt.is_empty() => all.push(message("assistant", answer)),
                Some(Value::String(_)) => {
                    return Err(format!("`{key}` is a string, and there is no `{}`", self.keys.prompt));
                }
                other => all.extend(messages(other, key)?),
            }
            if all.last().and_then(|last| last.get("role")) != Some(&json!("assistant")) {
                return Err(format!("the last message of `{key}` is not the assistant's"));
            }
            whole(self.conversation(&all, fields, true)?)
        };
        Ok(Preference { chosen: answer(&self.keys.chosen)?, rejected: answer(&self.keys.rejected)? })
    }

    /// A text with its end.
    fn text(&self, text: &str) -> Result<Example, String> {
        let mut tokens = self.tokenizer.encode(text, true).map_err(|error| error.to_string())?;
        let end = self.tokenizer.special_token_id("eos_token");
        let end = end.or_else(|| self.tokenizer.eos_token_ids().first().copied());
        tokens.extend(end.filter(|end| tokens.last() != Some(end)));
        Ok(Example { tokens, start: 0 })
    }

    /// A conversation as the template writes it; if the prompt is masked, learning starts with the last message.
    fn conversation(&self, messages: &[Value], fields: &Map<String, Value>, mask: bool) -> Result<Example, String> {
        let mut options = TemplateOptions { tools: tools(fields)?, ..TemplateOptions::default() };
        let encode = |messages: &[Value], options: &TemplateOptions| {
            self.tokenizer.encode_chat(messages, options).map_err(|error| error.to_string())
        };
        let tokens = encode(messages, &options)?;
        if !mask {
            return Ok(Example { tokens, start: 0 });
        }
        let Some((last, before)) = messages.split_last() else { return Ok(Example { tokens, start: 0 }) };
        options.add_generation_prompt = last.get("role").and_then(Value::as_str) == Some("assistant");
        let start = match before.is_empty() && !options.add_generation_prompt {
            true => 0,
            false => encode(before, &options)?.len(),
        };
        Ok(Example { tokens, start })
    }

    /// Why a row is of no kind.
    fn unknown(&self, fields: &Map<String, Value>) -> String {
        let Keys { prompt, completion, chat, text, chosen, rejected } = self.keys;
        let found: Vec<&str> = fields.keys().take(8).map(String::as_str).collect();
        format!(
            "it has the fields `{}`; expected `{chat}`, or `{prompt}` and `{completion}`, or `{text}`, or `{chosen}` and \
             `{rejected}`",
            found.join("`, `")
        )
    }
}

/// A row that has something to learn.
fn whole(example: Example) -> Result<Example, String> {
    match example.tokens.len() {
        0 => Err("it has no tokens".into()),
        1 => Err("it has one token only, which predicts nothing".into()),
        len if example.start >= len => Err("there is nothing after its prompt".into()),
        _ => Ok(example),
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn text<'f>(fields: &'f Map<String, Value>, key: &str) -> Result<&'f str, String> {
    match fields.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` is {}, expected a string", kind(other))),
        None => Err(format!("`{key}` is missing")),
    }
}

fn messages(value: Option<&Value>, key: &str) -> Result<Vec<Value>, String> {
    let messages = match value {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(Value::Array(_)) => return Err(format!("`{key}` is empty")),
        Some(other) => return Err(format!("`{key}` is {}, expected a list of messages", kind(other))),
        None => return Err(format!("`{key}` is missing")),
    };
    for (i, message) in messages.iter().enumerate() {
        if message.get("role").and_then(Value::as_str).is_none() {
            return Err(format!("the message {} of `{key}` has no `role`", i + 1));
        }
        if message.get("content").is_none() && message.get("tool_calls").is_none() {
            return Err(format!("the message {} of `{key}` has no `content`", i + 1));
        }
    }
    Ok(messages.clone())
}

/// The tools of a row: a list, or a list in a string, as sets of rows of one form have them.
fn tools(fields: &Map<String, Value>) -> Result<Option<Value>, String> {
    match fields.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(tools)) if tools.is_empty() => Ok(None),
        Some(tools @ Value::Array(_)) => Ok(Some(tools.clone())),
        Some(Value::String(tools)) if tools.trim().is_empty() => Ok(None),
        Some(Value::String(tools)) => match serde_json::from_str(tools) {
            Ok(tools @ Value::Array(_)) => Ok(Some(tools)),
            _ => Err("`tools` is a string that holds no list".into()),
        },
        Some(other) => Err(format!("`tools` is {}, expected a list", kind(other))),
    }
}
