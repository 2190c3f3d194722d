//! Routes of our own, as llama.cpp and vLLM have them: `/tokenize`, `/detokenize` and `/apply-template`.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Value, json};

use super::conversation::Conversation;
use super::error::{ApiError, Result};
use super::openai::chat::{self, ToolUse};
use super::openai::model;
use super::{Fields, prompt};
use crate::app::{App, blocking};
use crate::http::reply;

/// Text to token ids: `content` or `prompt`, or the `messages` of a chat.
pub(crate) async fn tokenize(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    model(&mut fields, &app.options)?;
    let pieces = fields.boolean("with_pieces")?.unwrap_or(false);
    if fields.is_given("messages") {
        let conversation = conversation(&mut fields, &app)?;
        fields.finish()?;
        let facts = Arc::clone(&card);
        let rendered = blocking(move || conversation.rendered(&facts)).await?;
        return Ok(tokens(&card, &rendered.tokens, pieces));
    }
    let special = fields.boolean("add_special")?.or(fields.boolean("add_special_tokens")?).unwrap_or(false);
    let (content, text) = (fields.string("content")?, fields.string("prompt")?);
    let text = fields.required("content", content.or(text))?;
    fields.finish()?;
    let facts = Arc::clone(&card);
    let ids = blocking(move || {
        prompt::check_length(&text, &facts)?;
        Ok(facts.tokenizer.encode(&text, special)?)
    });
    Ok(tokens(&card, &ids.await?, pieces))
}

fn tokens(card: &crate::engine::Card, ids: &[u32], pieces: bool) -> Response {
    let piece = |&id: &u32| json!({"id": id, "piece": card.tokenizer.id_to_token(id)});
    let list: Vec<Value> =
        if pieces { ids.iter().map(piece).collect() } else { ids.iter().map(|&id| id.into()).collect() };
    reply::json(&json!({"tokens": list, "count": ids.len(), "max_model_len": card.context_length}))
}

/// Token ids to text.
pub(crate) async fn detokenize(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    model(&mut fields, &app.options)?;
    let ids = fields.list("tokens")?;
    let ids = prompt::tokens(fields.required("tokens", ids)?, "tokens", &card)?;
    fields.finish()?;
    let text = blocking(move || card.tokenizer.decode(&ids).map_err(ApiError::from)).await?;
    Ok(reply::json(&json!({"content": text, "prompt": text})))
}

/// The fields of a chat that make its prompt.
fn conversation(fields: &mut Fields, app: &App) -> Result<Conversation> {
    let ToolUse { tools, must_call, .. } = chat::tool_use(fields)?;
    Ok(Conversation { must_call, ..chat::conversation(fields, &app.options, tools)? })
}

/// The messages of a chat as the prompt that the model would read.
pub(crate) async fn apply_template(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    model(&mut fields, &app.options)?;
    let conversation = conversation(&mut fields, &app)?;
    fields.finish()?;
    let text = blocking(move || Ok(conversation.rendered(&card)?.text)).await?;
    Ok(reply::json(&json!({"prompt": text})))
}
