//! Loading models and letting them go: `/v1/models/load` and `/v1/models/unload`.

use std::sync::Arc;

use axum::response::Response;
use serde_json::json;

use super::error::Result;
use super::fields::Fields;
use crate::app::App;
use crate::http::reply;
use crate::shelf::Stand;

async fn stand(app: &App, mut fields: Fields) -> Result<(String, Arc<Stand>)> {
    let model = fields.string("model")?;
    let model = fields.required("model", model)?;
    fields.finish()?;
    let stand = app.shelf.find(Some(&model)).await?;
    Ok((model, stand))
}

/// Loads a model, and answers when it is there.
pub(crate) async fn load(app: Arc<App>, fields: Fields) -> Result<Response> {
    let (model, stand) = stand(&app, fields).await?;
    let engine = app.shelf.engine(&stand).await?;
    let status = engine.status().state();
    Ok(reply::json(&json!({"id": model, "object": "model", "status": status.name()})))
}

/// Lets go of a model that nobody uses.
pub(crate) async fn unload(app: Arc<App>, fields: Fields) -> Result<Response> {
    let (model, stand) = stand(&app, fields).await?;
    let unloaded = app.shelf.unload(&stand).await?;
    Ok(reply::json(&json!({"id": model, "object": "model", "status": stand.status(), "unloaded": unloaded})))
}
