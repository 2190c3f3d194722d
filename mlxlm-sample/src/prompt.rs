//! What a generation goes on from.

use std::borrow::Cow;

use mlxlm_core::text::Tokenizer;

use crate::Result;

/// A prompt as text or as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// Text; it gets the tokenizer's special tokens unless it begins with the start token already.
    Text(Cow<'a, str>),
    /// Token ids, as they are.
    Tokens(Cow<'a, [u32]>),
}

impl<'a> Prompt<'a> {
    /// The token ids.
    pub fn into_tokens(self, tokenizer: &Tokenizer) -> Result<Cow<'a, [u32]>> {
        Ok(match self {
            Self::Text(text) => tokenizer.encode_prompt(&text)?.into(),
            Self::Tokens(tokens) => tokens,
        })
    }
}

impl<'a> From<&'a str> for Prompt<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl<'a> From<&'a String> for Prompt<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text.into())
    }
}

impl<'a> From<&'a [u32]> for Prompt<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self::Tokens(tokens.into())
    }
}

impl<'a> From<&'a Vec<u32>> for Prompt<'a> {
    fn from(tokens: &'a Vec<u32>) -> Self {
        Self::Tokens(tokens.into())
    }
}

impl From<Vec<u32>> for Prompt<'_> {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens.into())
    }
}
