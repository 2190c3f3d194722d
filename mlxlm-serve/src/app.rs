//! What every request sees of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use serde_json::Value;

use crate::api::Fields;
use crate::api::error::{ApiError, Result};
use crate::api::ids;
use crate::api::openai::responses::Memory;
use crate::engine::{Card, Handle, Refused};
use crate::http::metrics::HttpNumbers;
use crate::options::ServerOptions;
use crate::shelf::Shelf;

/// The server's options, engine and numbers; for a request, those of the model that it asks for.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) engine: Handle,
    /// All models.
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) http: Arc<HttpNumbers>,
    pub(crate) responses: Arc<Memory>,
    /// Conversations of Anthropic's API that are kept.
    pub(crate) threads: Arc<Memory>,
    /// Whether the server listens on addresses of this machine only.
    pub(crate) is_local: bool,
    /// Seconds since 1970.
    pub(crate) created: u64,
    draining: Arc<AtomicBool>,
}

impl App {
    pub(crate) fn new(options: ServerOptions, engine: Handle, is_local: bool) -> Self {
        let options = Arc::new(options);
        let shelf = Arc::new(Shelf::new(&options, engine.clone()));
        let (http, responses, threads, draining) = Default::default();
        Self { options, engine, shelf, http, responses, threads, is_local, created: ids::now_s(), draining }
    }

    /// The server as the model sees it that a request asks for, once that is loaded.
    pub(crate) async fn seat(self: &Arc<Self>, fields: &Fields) -> Result<Arc<Self>> {
        let stand = self.shelf.find(fields.peek("model").and_then(Value::as_str)).await?;
        let engine = self.shelf.engine(&stand).await?;
        Ok(Arc::new(Self {
            options: Arc::clone(&stand.options),
            engine,
            shelf: Arc::clone(&self.shelf),
            http: Arc::clone(&self.http),
            responses: Arc::clone(&self.responses),
            threads: Arc::clone(&self.threads),
            draining: Arc::clone(&self.draining),
            ..**self
        }))
    }

    /// The facts of the model, if it is ready.
    pub(crate) fn card(&self) -> Result<Arc<Card>> {
        let card = self.engine.status().card().filter(|_| self.engine.status().state().takes_jobs());
        card.ok_or_else(|| Refused::Unavailable.into())
    }

    /// The server ends, and should get no new requests.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Does work that takes a while, such as tokenizing, where it keeps no other request waiting.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let failed =
        |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be read: the server has a fault");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
