//! The server: listens, hands connections to the routes, and ends in order.

use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, watch};

use crate::app::App;
use crate::engine::{self, Loader, State};
use crate::error::{Error, Result};
use crate::http::tls::Certificate;
use crate::http::{connection, routes};
use crate::options::{Level, Limits, Log, ServerOptions};

/// Threads that wait for clients. They compute nothing: the cores are the engine's.
const THREADS: usize = 2;

/// Threads that tokenize and render.
const BLOCKING_THREADS: usize = 8;

/// How long the server rests when the system refuses a connection.
const REST: Duration = Duration::from_millis(50);

/// How long the prompts that were read may take to be written when the server ends.
const WRITING: Duration = Duration::from_secs(30);

/// How long the answers of an engine that is gone may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    options: ServerOptions,
    listeners: Vec<StdListener>,
    stop: watch::Sender<u32>,
    certificate: Option<Arc<Certificate>>,
}

/// Ends a server, or renews its certificate, from another thread.
#[derive(Debug, Clone)]
pub struct Stop {
    times: watch::Sender<u32>,
    certificate: Option<Arc<Certificate>>,
    log: Log,
}

impl Stop {
    /// Whether connections are encrypted.
    pub fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Reads the files of the certificate again, for connections to come. If they cannot be used the old one stays; either is logged.
    pub fn read_certificate_again(&self) {
        let Some(certificate) = &self.certificate else { return };
        match certificate.read_again() {
            Ok(()) => self.log.say(Level::Info, || "the certificate was read again".to_owned()),
            Err(error) => self.log.say(Level::Error, || format!("the old certificate stays in use: {error}")),
        }
    }

    /// No new requests are taken, and those that run are waited for; called once more, they are not.
    pub fn stop(&self) {
        self.times.send_modify(|times| *times = times.saturating_add(1));
    }
}

impl Server {
    /// Listens on every address of the host.
    pub fn bind(options: ServerOptions) -> Result<Self> {
        let certificate = options.tls.clone().map(Certificate::read).transpose()?.map(Arc::new);
        let (host, port) = (options.host.clone(), options.port);
        let failed = |source| Error::Bind { host: host.clone(), port, source };
        // Addresses are written in brackets in URLs.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let mut listeners: Vec<StdListener> = Vec::new();
        for mut address in (name, port).to_socket_addrs().map_err(failed)? {
            if port == 0
                && let Some(first) = listeners.first()
            {
                address.set_port(first.local_addr().map_err(failed)?.port());
            }
            match StdListener::bind(address) {
                Ok(listener) => listeners.push(listener),
                // A machine may know an address of a kind that it does not have.
                Err(_) if !listeners.is_empty() => {}
                Err(source) => return Err(failed(source)),
            }
        }
        listeners.iter().try_for_each(|listener| listener.set_nonblocking(true)).map_err(failed)?;
        Ok(Self { options, listeners, stop: watch::Sender::new(0), certificate })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// What ends it.
    pub fn stopper(&self) -> Stop {
        Stop { times: self.stop.clone(), certificate: self.certificate.clone(), log: self.options.log.clone() }
    }

    /// Answers until it is [stopped](Stop). Signals are the program's own affair.
    ///
    /// # Errors
    /// [`Error::Engine`] if the models cannot be loaded, or the engine broke down twice; [`Error::System`] if there are no threads.
    pub fn run(self, loader: Loader) -> Result<()> {
        let system = |action| move |source| Error::System { action, source };
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()
            .map_err(system("start threads"))?;
        let is_local = self.addresses().iter().all(|address| address.ip().is_loopback());
        let Self { options, listeners, stop, certificate } = self;
        let (timeout, log) = (options.limits.request_time, options.log.clone());
        let engine = engine::spawn(loader, options.engine.clone(), timeout, log);
        let app = Arc::new(App::new(options, engine.map_err(system("start a thread"))?, is_local));
        let done = runtime.block_on(async {
            let done = serve(&app, listeners, certificate, stop.subscribe()).await;
            let mut hurry = stop.subscribe();
            tokio::select! {
                () = app.shelf.leave(WRITING) => {}
                // Files in the making are swept by the next server.
                _ = hurry.wait_for(|times| *times > 1) => {}
            }
            done
        });
        runtime.shutdown_background();
        done
    }
}

async fn serve(
    app: &Arc<App>,
    listeners: Vec<StdListener>,
    certificate: Option<Arc<Certificate>>,
    mut stop: watch::Receiver<u32>,
) -> Result<()> {
    let router = routes::router(Arc::clone(app));
    let graceful = Arc::new(GracefulShutdown::new());
    let places = Arc::new(Semaphore::new(app.options.limits.connections));
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        let listener = TcpListener::from_std(listener).map_err(|source| Error::System { action: "listen", source })?;
        let door = Door {
            router: router.clone(),
            graceful: Arc::clone(&graceful),
            places: Arc::clone(&places),
            limits: app.options.limits.clone(),
            certificate: certificate.clone(),
        };
        accepting.spawn(door.open(listener));
    }
    let failed = tokio::select! {
        message = failure(app) => Some(message),
        _ = stop.wait_for(|times| *times > 0) => None,
    };
    app.drain();
    accepting.shutdown().await;
    let Some(graceful) = Arc::into_inner(graceful) else { return Ok(()) };
    if let Some(message) = failed {
        // Those who wait hear that they wait in vain.
        drop(tokio::time::timeout(LAST_WORDS, graceful.shutdown()).await);
        return Err(Error::Engine(message));
    }
    app.options.log.say(Level::Info, || "the server ends; requests that run are waited for".to_owned());
    tokio::select! {
        () = graceful.shutdown() => Ok(()),
        _ = stop.wait_for(|times| *times > 1) => Ok(()),
        () = tokio::time::sleep(app.options.limits.drain_time) => Ok(()),
        message = failure(app) => Err(Error::Engine(message)),
    }
}

/// Why the engine is gone for good; waits until it is.
async fn failure(app: &App) -> String {
    let mut states = app.engine.status().watch();
    let failed = states.wait_for(|state| {
        app.options.log.say(Level::Info, || format!("the engine is {}", state.name()));
        matches!(state, State::Failed(_))
    });
    match failed.await.map(|state| state.clone()) {
        Ok(State::Failed(message)) => message,
        _ => std::future::pending().await,
    }
}

/// What connections need.
struct Door {
    router: Router,
    graceful: Arc<GracefulShutdown>,
    places: Arc<Semaphore>,
    limits: Limits,
    certificate: Option<Arc<Certificate>>,
}

impl Door {
    /// Takes connections of a listener for ever.
    async fn open(self, listener: TcpListener) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // As when there are no more file descriptors: some will be free soon.
                tokio::time::sleep(REST).await;
                continue;
            };
            // Tokens are small and are wanted at once. Where that cannot be set, they come a little later.
            stream.set_nodelay(true).ok();
            let (router, limits, watcher) = (self.router.clone(), self.limits.clone(), self.graceful.watcher());
            let certificate = self.certificate.clone();
            tokio::spawn(async move {
                // A client that breaks the protocol, or goes away, is gone.
                match certificate {
                    None => drop(watcher.watch(connection::serve(stream, router, &limits)).await),
                    Some(certificate) => {
                        let greeting = tokio::time::timeout(limits.head_time, certificate.accept(stream)).await;
                        if let Ok(Ok(stream)) = greeting {
                            drop(watcher.watch(connection::serve(stream, router, &limits)).await);
                        }
                    }
                }
                drop(place);
            });
        }
    }
}
