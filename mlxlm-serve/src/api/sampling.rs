//! How tokens are chosen: the fields that every API shares, over the server's defaults.

use std::collections::BTreeMap;

use mlxlm_sample::{ProcessorOptions, SamplerOptions};
use serde_json::{Map, Value};

use super::error::{ApiError, Result};
use super::fields::{Fields, wrong};
use crate::engine::{Card, Generate};

/// What a request gets that says nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// The temperature; 0 takes the most likely token.
    pub temperature: f64,
    /// Keep the best tokens that together have this probability; 1 is all.
    pub top_p: f64,
    /// Keep so many of the best tokens; 0 is all.
    pub top_k: usize,
    /// Keep tokens of at least this share of the best one's probability; 0 is all.
    pub min_p: f64,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// Variables for the chat template.
    pub chat_template_args: Map<String, Value>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, max_tokens: 512, chat_template_args: Map::new() }
    }
}

/// The most strings that may end a text, and the most bytes of one.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4096;

/// The most tokens with a bias of their own.
const MAX_BIASES: usize = 4096;

/// The largest temperature; far below, every token is as likely as any other.
const MAX_TEMPERATURE: f64 = 100.0;

/// Reads the fields that say how tokens are chosen. The prompt, the number of tokens and log-probabilities are left as they are by default.
pub(crate) fn read(fields: &mut Fields, defaults: &Defaults, card: &Card) -> Result<Generate> {
    // In vLLM and SGLang this is all of them.
    if let Some(top_k) = fields.get_mut("top_k").filter(|top_k| **top_k == -1) {
        *top_k = 0.into();
    }
    let top_k = fields.count("top_k", 0..=u64::MAX)?.unwrap_or(defaults.top_k);
    let sampler = SamplerOptions {
        temp: fields.number("temperature", 0.0..=MAX_TEMPERATURE)?.unwrap_or(defaults.temperature),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(defaults.top_p),
        // As many as there are is all of them.
        top_k: if top_k >= card.vocab_size { 0 } else { top_k },
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(defaults.min_p),
        xtc_probability: fields.number("xtc_probability", 0.0..=1.0)?.unwrap_or(0.0),
        xtc_threshold: fields.number("xtc_threshold", 0.0..=0.5)?.unwrap_or(0.1),
        xtc_special_tokens: card.xtc_special_tokens.clone(),
        seed: seed(fields)?,
        ..SamplerOptions::default()
    };
    let processors = ProcessorOptions {
        logit_bias: logit_bias(fields, card)?,
        repetition_penalty: fields.number("repetition_penalty", 0.0..=f64::from(f32::MAX))?,
        repetition_context_size: context(fields, "repetition_context_size")?,
        presence_penalty: fields.number("presence_penalty", f64::from(f32::MIN)..=f64::from(f32::MAX))?,
        presence_context_size: context(fields, "presence_context_size")?,
        frequency_penalty: fields.number("frequency_penalty", f64::from(f32::MIN)..=f64::from(f32::MAX))?,
        frequency_context_size: context(fields, "frequency_context_size")?,
    };
    Ok(Generate {
        choices: 1,
        sampler,
        processors,
        max_tokens: defaults.max_tokens,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        num_draft_tokens: num_draft_tokens(fields, card)?,
        priority: priority(fields)?,
        ..Generate::default()
    })
}

fn context(fields: &mut Fields, name: &str) -> Result<usize> {
    Ok(fields.count(name, 0..=u64::MAX)?.unwrap_or(20))
}

/// `priority`, as in vLLM: the lower, the earlier among those that wait.
fn priority(fields: &mut Fields) -> Result<i64> {
    let Some(value) = fields.any("priority") else { return Ok(0) };
    let priority = value.as_i64().filter(|priority| (-1_000_000..=1_000_000).contains(priority));
    let expected = "a whole number from -1000000 to 1000000";
    priority.map(|priority| -priority).ok_or_else(|| wrong(&fields.path("priority"), &value, expected))
}

/// OpenAI's seeds may be negative; each is one of its own.
fn seed(fields: &mut Fields) -> Result<Option<u64>> {
    let Some(value) = fields.any("seed") else { return Ok(None) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some).ok_or_else(|| wrong(&fields.path("seed"), &value, "a whole number of 64 bits"))
}

fn logit_bias(fields: &mut Fields, card: &Card) -> Result<BTreeMap<u32, f64>> {
    let given = fields.object("logit_bias")?.unwrap_or_default();
    if given.len() > MAX_BIASES {
        return Err(fields.error("logit_bias", format!("has {} entries, at most {MAX_BIASES}", given.len())));
    }
    let entry = |(id, bias): (String, Value)| {
        let path = format!("logit_bias.{}", super::fields::cut(&id));
        let id = id.parse::<u32>().ok().filter(|&id| (id as usize) < card.vocab_size);
        let id =
            id.ok_or_else(|| ApiError::field(&path, format!("is no token id from 0 to {}", card.vocab_size - 1)))?;
        let bias = bias.as_f64().ok_or_else(|| wrong(&path, &bias, "a number"))?;
        Ok((id, bias))
    };
    given.into_iter().map(entry).collect()
}

/// Who proposes is the server's own affair; a request may do without, by a draft model of `null` or by a number of 0.
fn num_draft_tokens(fields: &mut Fields, card: &Card) -> Result<Option<usize>> {
    let given = fields.count("num_draft_tokens", 0..=1024)?;
    let is_named = fields.contains("draft_model");
    let without = match fields.any("draft_model") {
        None => is_named,
        Some(name) if name == "default_model" => false,
        Some(_) => {
            return Err(ApiError::unsupported(fields.path("draft_model"), "can be `default_model` or null only"));
        }
    };
    Ok(if without || !card.has_proposer { Some(0) } else { given })
}

/// `stop`: a string or a list of strings.
pub(crate) fn stop(fields: &mut Fields, name: &str) -> Result<Vec<String>> {
    let path = fields.path(name);
    let strings = match fields.any(name) {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => {
            let text = |(i, item): (usize, Value)| match item {
                Value::String(text) => Ok(text),
                other => Err(wrong(&format!("{path}[{i}]"), &other, "a string")),
            };
            items.into_iter().enumerate().map(text).collect::<Result<_>>()?
        }
        Some(other) => return Err(wrong(&path, &other, "a string or a list of strings")),
    };
    if strings.len() > MAX_STOPS {
        return Err(ApiError::field(path, format!("has {} strings, at most {MAX_STOPS}", strings.len())));
    }
    if strings.iter().any(|string| string.len() > MAX_STOP_BYTES) {
        return Err(ApiError::field(path, format!("has a string of more than {MAX_STOP_BYTES} bytes")));
    }
    Ok(strings)
}

/// Fits the number of tokens to what the model can read; a prompt that leaves no room for any is refused.
pub(crate) fn fit(generate: &mut Generate, card: &Card, param: &str) -> Result<()> {
    if generate.prompt.is_empty() {
        return Err(ApiError::field(param, "has no tokens"));
    }
    let Some(limit) = card.context_length else { return Ok(()) };
    let tokens = generate.prompt.len();
    let room = limit.saturating_sub(tokens);
    if tokens > limit || (room == 0 && generate.max_tokens > 0) {
        let message = format!("the prompt has {tokens} tokens, and the model reads at most {limit} with the answer");
        return Err(ApiError {
            param: Some(param.to_owned()),
            ..ApiError::bad(message).code("context_length_exceeded")
        });
    }
    generate.max_tokens = generate.max_tokens.min(room);
    Ok(())
}
