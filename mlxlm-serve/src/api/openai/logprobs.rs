//! Log-probabilities in the two forms that OpenAI has for them.

use mlxlm_core::text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::engine::Scored;

/// What is written for minus infinity, which JSON does not have.
const LEAST: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LEAST }
}

/// The text of one token; of one that is no whole character it is the replacement character.
pub(crate) fn text(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.decode(&[id]).unwrap_or_default()
}

/// An entry of a chat's `logprobs.content`.
pub(crate) fn chat(tokenizer: &Tokenizer, scored: &Scored) -> Value {
    let entry = |id: u32, logprob: f32| {
        let token = text(tokenizer, id);
        let bytes = (!token.contains('\u{fffd}')).then(|| token.as_bytes().to_vec());
        json!({"id": id, "token": token, "logprob": finite(logprob), "bytes": bytes})
    };
    let mut own = entry(scored.id, scored.logprob);
    own["top_logprobs"] = scored.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
    own
}

/// `logprobs` of a completion: lists of the same length.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Characters of the text before the next token.
    offset: usize,
}

impl Lists {
    /// The first token of an echoed prompt, which follows nothing.
    pub(crate) fn first(&mut self, tokenizer: &Tokenizer, id: u32) {
        self.add(text(tokenizer, id), Value::Null, Value::Null);
    }

    /// A token.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, scored: &Scored) {
        let top: Map<String, Value> =
            scored.top.iter().map(|&(id, logprob)| (text(tokenizer, id), finite(logprob).into())).collect();
        let top = if scored.top.is_empty() { Value::Null } else { top.into() };
        self.add(text(tokenizer, scored.id), finite(scored.logprob).into(), top);
    }

    fn add(&mut self, token: String, logprob: Value, top: Value) {
        self.text_offset.push(self.offset);
        self.offset += token.chars().count();
        self.tokens.push(token.into());
        self.token_logprobs.push(logprob);
        self.top_logprobs.push(top);
    }

    /// The object, with the lists so far; they begin anew, as a stream wants them.
    pub(crate) fn take(&mut self) -> Value {
        json!({
            "tokens": std::mem::take(&mut self.tokens),
            "token_logprobs": std::mem::take(&mut self.token_logprobs),
            "top_logprobs": std::mem::take(&mut self.top_logprobs),
            "text_offset": std::mem::take(&mut self.text_offset),
        })
    }
}
