//! Which path leads where.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};

use super::{body, guard, health, metrics, page, reply};
use crate::api::error::{ApiError, Dialect, Result};
use crate::api::openai::{chat, completions, embeddings, models, responses};
use crate::api::{Fields, adapters, anthropic, images, models as stands, native};
use crate::app::App;

/// A route that takes the fields of a request.
fn takes<F, A>(dialect: Dialect, answer: F) -> MethodRouter<Arc<App>>
where
    F: Fn(Arc<App>, Fields) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response>> + Send + 'static,
{
    post(move |State(app): State<Arc<App>>, request: Request| async move {
        let answered = match body::fields(request, &app.options.limits).await {
            Ok(fields) => answer(Arc::clone(&app), images::apply(fields, app.options.images)).await,
            Err(error) => Err(error),
        };
        answered.unwrap_or_else(|error| reply::error(&error, dialect))
    })
}

/// The routes, and their paths as they were given.
pub(crate) struct Table {
    router: Router<Arc<App>>,
    pub(crate) paths: Vec<String>,
}

impl Table {
    pub(crate) fn route(self, path: &str, methods: MethodRouter<Arc<App>>) -> Self {
        let Self { router, mut paths } = self;
        paths.push(path.to_owned());
        Self { router: router.route(path, methods), paths }
    }
}

/// All routes; with `has_page` those of the page's files too.
pub(crate) fn table(has_page: bool) -> Table {
    let openai = Dialect::OpenAi;
    let mut router = Table { router: Router::new(), paths: Vec::new() };
    // Python mlx-lm and other servers know these without a version too.
    for prefix in ["/v1", ""] {
        router = router
            .route(&format!("{prefix}/chat/completions"), takes(openai, chat::handle))
            .route(&format!("{prefix}/completions"), takes(openai, completions::handle))
            .route(&format!("{prefix}/responses"), takes(Dialect::Responses, responses::handle))
            .route(&format!("{prefix}/responses/{{id}}"), get(get_response).delete(delete_response))
            .route(&format!("{prefix}/responses/compact"), takes(openai, responses::compact))
            .route(&format!("{prefix}/embeddings"), takes(openai, embeddings::handle))
            .route(&format!("{prefix}/models"), get(list_models))
            .route(&format!("{prefix}/models/{{*name}}"), get(one_model))
            .route(&format!("{prefix}/tokenize"), takes(openai, native::tokenize))
            .route(&format!("{prefix}/detokenize"), takes(openai, native::detokenize))
            .route(&format!("{prefix}/apply-template"), takes(openai, native::apply_template));
    }
    if has_page {
        router = page::add(router);
    }
    router
        .route("/v1/models/load", takes(openai, stands::load))
        .route("/v1/models/unload", takes(openai, stands::unload))
        .route("/v1/adapters", get(list_adapters).merge(takes(openai, adapters::load)))
        .route("/v1/adapters/{*name}", delete(unload_adapter))
        .route("/v1/messages", takes(Dialect::Anthropic, anthropic::handle))
        .route("/v1/messages/count_tokens", takes(Dialect::Anthropic, anthropic::count_tokens))
        .route("/health", get(show_health))
        .route("/ready", get(|State(app): State<Arc<App>>| async move { health::ready(&app) }))
        .route("/metrics", get(show_metrics))
        .route("/openapi.json", get(describe))
}

/// All routes, behind the guard.
pub(crate) fn router(app: Arc<App>) -> Router {
    table(app.options.page)
        .router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}

async fn list_models(State(app): State<Arc<App>>) -> Response {
    reply::json(&models::list(&app))
}

async fn list_adapters(State(app): State<Arc<App>>) -> Response {
    adapters::list(&app)
}

async fn unload_adapter(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    adapters::unload(&app, name).await.unwrap_or_else(|error| reply::error(&error, Dialect::OpenAi))
}

async fn one_model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    let model = models::one(&app, &name);
    model.map_or_else(|error| reply::error(&error, Dialect::OpenAi), |model| reply::json(&model))
}

async fn get_response(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    responses::get(&app, &id).unwrap_or_else(|error| reply::error(&error, Dialect::OpenAi))
}

async fn delete_response(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    responses::delete(&app, &id).unwrap_or_else(|error| reply::error(&error, Dialect::OpenAi))
}

/// The description of the routes, which `cargo xtask openapi` makes.
async fn describe() -> Response {
    reply::of(StatusCode::OK, "application/json", include_str!("openapi.json"))
}

async fn show_health(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    health::health(&app, &headers)
}

async fn show_metrics(State(app): State<Arc<App>>) -> Response {
    reply::of(StatusCode::OK, "text/plain; version=0.0.4", metrics::page(&app))
}

async fn no_route(request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    body::discard(request).await;
    let message = format!("there is no route {method} {}", crate::api::fields::cut(&path));
    reply::error(&ApiError::new(StatusCode::NOT_FOUND, message), guard::dialect(&path))
}

async fn no_method(request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    body::discard(request).await;
    let message = format!("`{}` does not take {method}", crate::api::fields::cut(&path));
    reply::error(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message), guard::dialect(&path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
        let own = table(true).paths.into_iter().filter(|path| !page::is_file(path));
        let routed: BTreeSet<String> = own.map(|path| path.replace("{*", "{")).collect();
        assert_eq!(described, routed, "describe it in xtask/src/openapi/document.rs, and run `cargo xtask openapi`");
    }
}
