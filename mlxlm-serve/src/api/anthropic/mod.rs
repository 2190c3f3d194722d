//! Anthropic's API: `/v1/messages` and `/v1/messages/count_tokens`.

mod answer;
mod messages;
mod request;

use std::sync::Arc;

use axum::response::Response;
use serde_json::json;

use super::error::Result;
use super::{Fields, adapters};
use crate::app::{App, blocking};
use crate::engine::{Generate, Work};
use crate::http::reply;
use request::MessagesRequest;

/// `/v1/messages`.
pub(crate) async fn handle(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    let adapter = adapters::requested(&app, &mut fields).await?;
    let (own, facts) = (Arc::clone(&app), Arc::clone(&card));
    let mut request = blocking(move || MessagesRequest::read(fields, &own, &facts)).await?;
    let generate = Generate { adapter, ..std::mem::take(&mut request.generate) };
    let tokens = generate.prompt.len();
    request.stop.clone_from(&generate.stop);
    let job = app.engine.submit_one(Work::Generate(Box::new(generate)))?;
    answer::answer(app, &card, request, job, tokens).await
}

/// `/v1/messages/count_tokens`.
pub(crate) async fn count_tokens(app: Arc<App>, fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    let own = Arc::clone(&app);
    let tokens = blocking(move || request::count(fields, &own, &card)).await?;
    Ok(reply::json(&json!({"input_tokens": tokens})))
}
