//! `/health` and `/ready`: what the engine's thread really does.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::reply;
use crate::app::App;
use crate::engine::State;

/// Whether the process is worth keeping: not if its engine is gone, is being replaced, or hangs in a step.
pub(crate) fn health(app: &App) -> Response {
    let status = app.engine.status();
    let (state, step) = (status.state(), status.busy_for());
    let hangs = step.is_some_and(|step| step > app.options.limits.step_time);
    let is_well = matches!(state, State::Loading | State::Ready | State::Asleep) && !hangs;
    let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if is_well { "ok" } else { "unavailable" },
        "engine": if hangs { "hangs" } else { state.name() },
        "step_s": step.map(|step| step.as_secs_f64()),
        "requests": app.engine.inside(),
    });
    reply::json_with(code, &body)
}

/// Whether the next request should come here.
pub(crate) fn ready(app: &App) -> Response {
    let takes = app.engine.status().state().takes_jobs();
    let why = match (takes, app.is_draining(), app.engine.has_room()) {
        (_, true, _) => "draining",
        (false, ..) => app.engine.status().state().name(),
        (true, false, false) => "full",
        (true, false, true) => "ready",
    };
    let code = if why == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json_with(code, &json!({"status": why}))
}
