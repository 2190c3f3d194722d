//! OpenAI's APIs.

pub(crate) mod chat;
pub(crate) mod chat_answer;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;

use serde_json::{Value, json};

use super::adapters;
use super::error::{ApiError, Result};
use super::fields::Fields;
use crate::engine::Generate;
use crate::options::ServerOptions;

/// The most texts of one request.
pub(crate) const MAX_CHOICES: u64 = 128;

/// The name of the model that a request asks for, as it is answered: what was asked, or what the server calls it.
pub(crate) fn model(fields: &mut Fields, options: &ServerOptions) -> Result<String> {
    let asked = fields.string("model")?;
    if options.requires_model {
        fields.required("model", asked.as_ref())?;
    }
    let Some(asked) = asked else { return Ok("default_model".to_owned()) };
    let (base, _) = adapters::split(&asked, &options.names);
    match base == "default_model" || options.names.iter().any(|name| name == base) {
        true => Ok(asked),
        false => Err(ApiError::no_model(super::fields::cut(&asked), &options.names)),
    }
}

/// What clients may say that changes no answer, and what would change one if this server could.
pub(crate) fn common(fields: &mut Fields) -> Result<()> {
    fields.pass_over(&["user", "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"]);
    // SGLang's gateway adds these to every request.
    fields.only("no_stop_trim", &[false.into()], "is not supported: strings that end a text are never part of it")?;
    fields.only("skip_special_tokens", &[true.into()], "is not supported")?;
    fields.only("return_hidden_states", &[false.into()], "is not supported; see `/v1/embeddings`")?;
    fields.only("separate_reasoning", &[true.into()], "is not supported: thinking is always apart")?;
    fields.only("stream_reasoning", &[true.into()], "is not supported: thinking comes as it is thought")?;
    fields.only("store", &[false.into()], "is not supported: nothing is stored")?;
    fields.only("service_tier", &["auto".into(), "default".into()], "can be `auto` only")
}

/// Whether the answer comes as events, and with a last one that counts tokens.
pub(crate) fn streaming(fields: &mut Fields) -> Result<(bool, bool)> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.fields("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        return Err(fields.error("stream_options", "needs `stream` to be true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.only("include_obfuscation", &[false.into()], "is not supported")?;
    options.finish()?;
    Ok((stream, include_usage))
}

/// `n` and the numbers of tokens.
pub(crate) fn amounts(fields: &mut Fields, generate: &mut Generate, least_tokens: u64) -> Result<()> {
    generate.choices = fields.count("n", 1..=MAX_CHOICES)?.unwrap_or(1);
    let max_tokens = fields.count("max_tokens", least_tokens..=u64::MAX)?;
    let max_completion_tokens = fields.count("max_completion_tokens", least_tokens..=u64::MAX)?;
    generate.max_tokens = max_completion_tokens.or(max_tokens).unwrap_or(generate.max_tokens);
    Ok(())
}

/// What every answer of OpenAI's begins with.
pub(crate) fn head(id: &str, object: &str, created: u64, model: &str) -> Value {
    json!({
        "id": id,
        "object": object,
        "created": created,
        "model": model,
        "system_fingerprint": concat!("mlxlm-", env!("CARGO_PKG_VERSION")),
    })
}
