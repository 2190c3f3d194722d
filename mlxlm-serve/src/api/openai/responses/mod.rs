//! OpenAI's `/v1/responses`: an answer is a list of items, and the next request may go on from an answer by its name.

mod answer;
mod compact;
mod input;
mod memory;
mod request;

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::api::error::{ApiError, Result};
use crate::api::{Fields, adapters};
use crate::app::{App, blocking};
use crate::engine::{Generate, Work};
use crate::http::reply;
pub(crate) use compact::handle as compact;
pub(crate) use memory::Memory;
use request::ResponsesRequest;

/// Answers a request.
pub(crate) async fn handle(app: Arc<App>, mut fields: Fields) -> Result<Response> {
    let app = app.seat(&fields).await?;
    let card = app.card()?;
    let adapter = adapters::requested(&app, &mut fields).await?;
    let (own, facts) = (Arc::clone(&app), Arc::clone(&card));
    let mut request = blocking(move || ResponsesRequest::read(fields, &own, &facts)).await?;
    let generate = Generate { adapter, ..std::mem::take(&mut request.generate) };
    let tokens = generate.prompt.len();
    let job = app.engine.submit_one(Work::Generate(Box::new(generate)))?;
    answer::answer(app, &card, request, job, tokens).await
}

fn not_kept(id: &str) -> ApiError {
    let message = format!("there is no response `{}`: it is unknown or was dropped", crate::api::fields::cut(id));
    ApiError::new(StatusCode::NOT_FOUND, message).code("response_not_found")
}

/// An answer that is kept.
pub(crate) fn get(app: &App, id: &str) -> Result<Response> {
    let kept = app.responses.get(id).ok_or_else(|| not_kept(id))?;
    Ok(reply::json(&kept.response))
}

/// Forgets an answer.
pub(crate) fn delete(app: &App, id: &str) -> Result<Response> {
    if !app.responses.remove(id) {
        return Err(not_kept(id));
    }
    Ok(reply::json(&json!({"id": id, "object": "response", "deleted": true})))
}
