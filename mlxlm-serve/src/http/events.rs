//! Answers that come as events (server-sent events), with comments between that show that the server works.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::reply;
use crate::api::choices::{Answer, Progress};
use crate::api::error::{ApiError, Dialect};

/// A comment is sent when there was nothing else to send for so long: proxies take a silent connection for a dead one.
const QUIET: Duration = Duration::from_secs(10);

/// Events that may be on their way to a slow client.
const ON_THE_WAY: usize = 64;

/// Nobody reads the events any more, or an error was the last of them.
#[derive(Debug)]
pub(crate) struct Gone;

/// Where the events go.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Sender<Bytes>,
    dialect: Dialect,
}

/// An answer whose events `produce` makes. It is dropped as soon as the client is gone.
pub(crate) fn response<F>(dialect: Dialect, produce: impl FnOnce(Events) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = channel(ON_THE_WAY);
    let client = sender.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = produce(Events { sender, dialect }) => {}
            () = client.closed() => {}
        }
    });
    let next = |mut receiver: Receiver<Bytes>| async move {
        receiver.recv().await.map(|bytes| (Ok::<_, Infallible>(bytes), receiver))
    };
    let body = Body::from_stream(stream::unfold(receiver, next));
    let mut response = reply::of(StatusCode::OK, "text/event-stream", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies of nginx's kind not to collect events.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Events {
    async fn send(&self, text: String) -> Result<(), Gone> {
        self.sender.send(text.into()).await.map_err(|_| Gone)
    }

    /// An event without a name.
    pub(crate) async fn data(&self, value: &Value) -> Result<(), Gone> {
        self.send(format!("data: {value}\n\n")).await
    }

    /// An event with a name.
    pub(crate) async fn named(&self, name: &str, value: &Value) -> Result<(), Gone> {
        self.send(format!("event: {name}\ndata: {value}\n\n")).await
    }

    /// OpenAI's last event.
    pub(crate) async fn done(&self) -> Result<(), Gone> {
        self.send("data: [DONE]\n\n".to_owned()).await
    }

    /// The request failed after its answer began: the last event.
    async fn fail(&self, error: &ApiError) -> Gone {
        let body = error.body(self.dialect);
        // Whether it is read or not, nothing follows.
        drop(match self.dialect {
            Dialect::OpenAi => self.data(&body).await,
            Dialect::Responses => {
                let event = serde_json::json!({"type": "error", "error": body["error"]});
                self.named("error", &event).await
            }
            Dialect::Anthropic => self.named("error", &body).await,
        });
        Gone
    }

    /// What happens next to an answer, with comments while its prompt is read or nothing happens.
    pub(crate) async fn next(&self, answer: &mut Answer) -> Result<Option<Progress>, Gone> {
        loop {
            match tokio::time::timeout(QUIET, answer.next()).await {
                Err(_) => self.send(": keepalive\n\n".to_owned()).await?,
                Ok(Ok(Some(Progress::Read { done, total }))) => {
                    self.send(format!(": keepalive {done}/{total}\n\n")).await?;
                }
                Ok(Ok(progress)) => return Ok(progress),
                Ok(Err(error)) => return Err(self.fail(&error).await),
            }
        }
    }
}
