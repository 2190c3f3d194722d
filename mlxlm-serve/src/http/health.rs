//! `/health` and `/ready`: what the engine's thread really does.

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::{guard, reply};
use crate::app::App;
use crate::engine::{Handle, State};

/// Whether the process is worth keeping: not if the engine of its first model is gone or is being replaced, or any hangs in a step.
/// Who may know the models hears of each that was loaded.
pub(crate) fn health(app: &App, headers: &HeaderMap) -> Response {
    let hangs = |engine: &Handle| engine.status().busy_for().is_some_and(|step| step > app.options.limits.step_time);
    let name = |engine: &Handle| if hangs(engine) { "hangs" } else { engine.status().state().name() };
    let step_s = |engine: &Handle| engine.status().busy_for().map(|step| step.as_secs_f64());
    let engines: Vec<(String, Handle)> = app.shelf.engines().collect();
    let one_hangs = engines.iter().find(|(_, engine)| hangs(engine));
    let first = app.engine.status().state();
    let is_well = matches!(first, State::Loading | State::Ready | State::Asleep) && one_hangs.is_none();
    let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let longest = engines.iter().filter_map(|(_, engine)| step_s(engine)).max_by(f64::total_cmp);
    let mut body = json!({
        "status": if is_well { "ok" } else { "unavailable" },
        "engine": one_hangs.map_or_else(|| name(&app.engine), |(_, engine)| name(engine)),
        "step_s": longest,
        "requests": engines.iter().map(|(_, engine)| engine.inside()).sum::<usize>(),
    });
    if guard::may_know(&app.options.access, headers) {
        let of = |(model, engine): &(String, Handle)| {
            let own = json!({"engine": name(engine), "step_s": step_s(engine), "requests": engine.inside()});
            (model.clone(), own)
        };
        body["models"] = engines.iter().map(of).collect::<Map<String, Value>>().into();
    }
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
