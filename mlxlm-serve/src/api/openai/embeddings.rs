//! `/v1/embeddings`: the mean of the states after the last block, one long.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde_json::{Value, json};

use super::model;
use crate::api::choices::embeddings;
use crate::api::error::{ApiError, Result};
use crate::api::{Fields, adapters, prompt};
use crate::app::{App, blocking};
use crate::engine::Work;
use crate::http::reply;

/// The most texts of one request.
const MAX_INPUTS: usize = 2048;

pub(crate) async fn handle(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    let model = model(&mut fields, &app.options)?;
    if adapters::split(&model, &app.options.names).1.is_some() {
        return Err(ApiError::unsupported("model", "cannot name an adapter here: embeddings are the model's own"));
    }
    let encoding = fields.word("encoding_format", &["float", "base64"])?.unwrap_or("float");
    fields.only("dimensions", &[], "is not supported: vectors are as wide as the model")?;
    fields.pass_over(&["user"]);
    let input = fields.any("input");
    let input = fields.required("input", input)?;
    fields.finish()?;
    let prompts = blocking(move || {
        let limit = card.context_length.unwrap_or(usize::MAX);
        let prompts = prompt::prompts(input, "input", &card, MAX_INPUTS)?;
        let tokens = |(i, prompt): (usize, prompt::Prompt)| {
            let tokens = prompt.into_tokens(&card)?;
            match tokens.len() {
                0 => Err(ApiError::field(format!("input[{i}]"), "has no tokens")),
                len if len > limit => {
                    let message = format!("has {len} tokens, and the model reads at most {limit}");
                    Err(ApiError::field(format!("input[{i}]"), message).code("context_length_exceeded"))
                }
                _ => Ok(tokens),
            }
        };
        prompts.into_iter().enumerate().map(tokens).collect::<Result<Vec<_>>>()
    })
    .await?;
    let tokens: usize = prompts.iter().map(Vec::len).sum();
    let count = prompts.len();
    let job = app.engine.submit_one(Work::Embed { prompts })?;
    let vectors = embeddings(job, count).await?;
    let data: Vec<Value> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if encoding == "base64" { base64(&vector).into() } else { Value::from(vector) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(reply::json(&json!({"object": "list", "data": data, "model": model, "usage": usage})))
}

/// The numbers as bytes of f32, the lowest first, in base 64.
fn base64(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(base64(&[0.0, 0.5, 1.0]), "AAAAAAAAAD8AAIA/");
        assert_eq!(base64(&[]), "");
    }
}
