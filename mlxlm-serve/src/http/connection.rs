//! How long a connection may be silent: shortly in the middle of a head, for longer between two requests, and as long as it takes
//! while one is answered.
//!
//! Programs keep connections for their next request. One that is closed just as that is sent costs the request, so idle ones are kept
//! for minutes; a client that sends a head letter by letter is not.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::options::Limits;

/// What a connection is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A head comes.
    Head,
    /// A request is read or answered.
    Busy,
    /// Nothing has come since the last answer.
    Idle,
}

/// The stage, as its two ends know it: bytes and requests.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<AtomicU8>);

impl Shared {
    fn get(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Head,
            1 => Stage::Busy,
            _ => Stage::Idle,
        }
    }

    fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Release);
    }
}

/// A connection that is served.
pub(crate) type Connection<S> = http1::Connection<TokioIo<Patient<S>>, Counted>;

/// Serves a connection.
pub(crate) fn serve<S>(stream: S, router: Router, limits: &Limits) -> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let stage = Shared::default();
    let patient = Patient {
        stream,
        stage: stage.clone(),
        seen: Stage::Head,
        sleep: Box::pin(sleep(limits.head_time)),
        limits: limits.clone(),
    };
    let service = Counted { inner: TowerToHyperService::new(router), stage };
    http1::Builder::new().max_buf_size(limits.head_bytes.max(8192)).serve_connection(TokioIo::new(patient), service)
}

/// A stream that fails when it was silent for too long.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    stage: Shared,
    /// The stage that `sleep` is for.
    seen: Stage,
    sleep: Pin<Box<Sleep>>,
    limits: Limits,
}

impl<S> Patient<S> {
    /// Waits for the end of a stage from now on.
    fn enter(&mut self, stage: Stage) {
        self.seen = stage;
        let time = if stage == Stage::Idle { self.limits.idle_time } else { self.limits.head_time };
        // What is too far away never comes.
        if let Some(end) = Instant::now().checked_add(time) {
            self.sleep.as_mut().reset(end);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let stage = self.stage.get();
        if read.is_ready() {
            if stage == Stage::Idle && buf.filled().len() > before {
                self.stage.set(Stage::Head);
                self.enter(Stage::Head);
            }
            return read;
        }
        if stage != self.seen {
            self.enter(stage);
        }
        if stage != Stage::Busy && self.sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

/// The routes, which say when a request is there and when it is answered.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: TowerToHyperService<Router>,
    stage: Shared,
}

impl Service<Request<Incoming>> for Counted {
    type Response = Response<Followed>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.stage.set(Stage::Busy);
        let (answer, stage) = (self.inner.call(request), self.stage.clone());
        Box::pin(async move { Ok(answer.await?.map(|body| Followed { body, _end: End(stage) })) })
    }
}

/// The body of an answer, whose end is that of the request.
#[derive(Debug)]
pub(crate) struct Followed {
    body: Body,
    _end: End,
}

#[derive(Debug)]
struct End(Shared);

impl Drop for End {
    fn drop(&mut self) {
        self.0.set(Stage::Idle);
    }
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
