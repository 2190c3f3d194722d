//! Prompts as text and as token ids.

use serde_json::Value;

use super::error::{ApiError, Result};
use super::fields::wrong;
use crate::engine::Card;

/// A prompt as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    /// Text, which gets the special tokens that it does not bring.
    Text(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// The token ids.
    pub(crate) fn into_tokens(self, card: &Card) -> Result<Vec<u32>> {
        match self {
            Self::Tokens(tokens) => Ok(tokens),
            Self::Text(text) => {
                check_length(&text, card)?;
                Ok(card.tokenizer.encode_prompt(&text)?)
            }
        }
    }
}

/// Refuses a text that is far longer than the model reads, before all of it is tokenized.
pub(crate) fn check_length(text: &str, card: &Card) -> Result<()> {
    Ok(card.context_length.map_or(Ok(()), |limit| card.tokenizer.check_length(text, limit))?)
}

/// A string, a list of strings, a list of token ids, or a list of such lists. `most` is how many prompts there may be.
pub(crate) fn prompts(value: Value, path: &str, card: &Card, most: usize) -> Result<Vec<Prompt>> {
    const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            return Ok(vec![Prompt::Tokens(tokens(items, path, card)?)]);
        }
        Value::Array(items) => items,
        other => return Err(wrong(path, &other, EXPECTED)),
    };
    if items.is_empty() {
        return Err(ApiError::field(path, "is an empty list"));
    }
    if items.len() > most {
        return Err(ApiError::field(path, format!("has {} entries, at most {most}", items.len())));
    }
    let prompt = |(i, item): (usize, Value)| match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) => Ok(Prompt::Tokens(tokens(ids, &format!("{path}[{i}]"), card)?)),
        other => Err(wrong(&format!("{path}[{i}]"), &other, "a string or a list of token ids")),
    };
    items.into_iter().enumerate().map(prompt).collect()
}

/// A list of token ids.
pub(crate) fn tokens(items: Vec<Value>, path: &str, card: &Card) -> Result<Vec<u32>> {
    let id = |(i, item): (usize, Value)| {
        let id = item.as_u64().filter(|&id| id < card.vocab_size as u64);
        let expected = || format!("a token id from 0 to {}", card.vocab_size.saturating_sub(1));
        id.map(|id| id as u32).ok_or_else(|| wrong(&format!("{path}[{i}]"), &item, &expected()))
    };
    items.into_iter().enumerate().map(id).collect()
}
