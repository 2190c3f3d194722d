//! `/v1/models`: what the server answers as.

use serde_json::{Value, json};

use crate::api::error::{ApiError, Result};
use crate::app::App;

fn entry(name: &str, created: u64) -> Value {
    json!({"id": name, "object": "model", "created": created, "owned_by": "mlxlm"})
}

/// The models that there are, and their adapters.
pub(crate) fn list(app: &App) -> Value {
    let mut data: Vec<Value> = Vec::new();
    for stand in app.shelf.stands() {
        for name in &stand.options.names {
            let mut own = entry(name, app.created);
            own["status"] = stand.status().into();
            data.push(own);
        }
        let base = stand.name();
        let adapters = stand.engine().map(|engine| engine.status().adapters());
        for adapter in adapters.iter().flat_map(|adapters| adapters.iter()) {
            let mut own = entry(&format!("{base}:{}", adapter.name), app.created);
            own["parent"] = base.into();
            data.push(own);
        }
    }
    json!({"object": "list", "data": data})
}

/// One of them.
pub(crate) fn one(app: &App, name: &str) -> Result<Value> {
    let list = list(app);
    let found = list["data"].as_array().and_then(|data| data.iter().find(|entry| entry["id"] == name).cloned());
    found.ok_or_else(|| ApiError::no_model(crate::api::fields::cut(name), &app.options.names))
}
