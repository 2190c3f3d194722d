//! How the server works, as plain data.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::api::sampling::Defaults;
use crate::engine::EngineOptions;
use crate::shelf::{Finder, OtherModel};

/// How the server works.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What clients may call the model; the first is shown.
    pub names: Vec<String>,
    /// The host to listen on, by name or address.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// What requests get that say nothing else.
    pub defaults: Defaults,
    /// How the engine works.
    pub engine: EngineOptions,
    /// The memory that the model takes, in bytes: about that of its files. 0 if that is not known.
    pub model_bytes: u64,
    /// Models beside it, which are loaded when they are asked for.
    pub models: Vec<OtherModel>,
    /// Looks for models under other names.
    pub finder: Option<Finder>,
    /// The most memory of all models together, in bytes; `None` is what the system has left.
    pub memory_budget: Option<u64>,
    /// Folders whose folders are adapters that requests may ask for; without any, none can.
    pub adapter_roots: Vec<PathBuf>,
    /// Who may ask.
    pub access: Access,
    /// What a client may take.
    pub limits: Limits,
    /// What happens to images, which no model here can see.
    pub images: Images,
    /// Whether requests have to name the model, as they have to at OpenAI.
    pub requires_model: bool,
    /// Whether there is a page to chat on, at `/`.
    pub page: bool,
    /// What connections are encrypted with; without it they are not.
    pub tls: Option<Tls>,
    /// Who hears what happens.
    pub log: Log,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            names: vec!["default_model".into()],
            host: "127.0.0.1".into(),
            port: 8080,
            defaults: Defaults::default(),
            engine: EngineOptions::default(),
            model_bytes: 0,
            models: Vec::new(),
            finder: None,
            memory_budget: None,
            adapter_roots: Vec::new(),
            access: Access::default(),
            limits: Limits::default(),
            images: Images::default(),
            requires_model: false,
            page: true,
            tls: None,
            log: Log::default(),
        }
    }
}

/// A certificate and its key, in files of PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate of the server, and those that lead from it to one that clients trust.
    pub certificates: PathBuf,
    /// The private key of the first.
    pub key: PathBuf,
}

/// What happens to images in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Images {
    /// The request is refused.
    #[default]
    Refuse,
    /// The model reads `[image]` in their place, so that a conversation goes on in which somebody has shown one.
    Mention,
}

/// Who may ask.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Keys, one of which each request has to bring; none lets everybody in.
    pub api_keys: Vec<ApiKey>,
    /// Origins whose pages may ask, as browsers name them; `*` is all. `None` are pages of this machine.
    pub allowed_origins: Option<Vec<String>>,
    /// Names that the server may be asked under, without a port; `*` is all. `None` are those of this machine where it listens on a
    /// loopback address, so that no page can reach it under a name of its own, and all elsewhere.
    pub allowed_hosts: Option<Vec<String>>,
}

/// A secret, which is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// What a client may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest body of a request, in bytes.
    pub body_bytes: usize,
    /// The longest head of a request, in bytes.
    pub head_bytes: usize,
    /// How long a client may take to send a head.
    pub head_time: Duration,
    /// How long a connection may be silent between two requests.
    pub idle_time: Duration,
    /// How long a client may take to send a body.
    pub body_time: Duration,
    /// The most connections.
    pub connections: usize,
    /// How long a request may take, from when it was read to its last token.
    pub request_time: Option<Duration>,
    /// How long one step of the engine may take until `/health` says that it hangs.
    pub step_time: Duration,
    /// How long requests that run are waited for when the server ends.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            head_bytes: 64 << 10,
            head_time: Duration::from_secs(30),
            idle_time: Duration::from_mins(5),
            body_time: Duration::from_mins(1),
            connections: 4096,
            request_time: None,
            step_time: Duration::from_mins(10),
            drain_time: Duration::from_mins(1),
        }
    }
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What helps to find a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not be.
    Warning,
    /// What has failed.
    Error,
}

/// A line of the log. It holds neither keys nor prompts; paths in it are as clients sent them, so whoever shows it escapes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// What happened.
    pub text: String,
    /// The request that was answered, if it is about one.
    pub asked: Option<Asked>,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its path, as the client sent it.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// From when its head was read to when the answer began.
    pub time: Duration,
}

/// Hears what happens.
#[derive(Clone, Default)]
pub struct Log(Option<Arc<dyn Fn(&Line) + Send + Sync>>);

impl Log {
    /// Calls a function with each line, from any thread.
    pub fn new(hear: impl Fn(&Line) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    pub(crate) fn say(&self, level: Level, text: impl FnOnce() -> String) {
        if let Some(hear) = &self.0 {
            hear(&Line { level, text: text(), asked: None });
        }
    }

    /// A request was answered.
    pub(crate) fn say_asked(&self, level: Level, asked: impl FnOnce() -> Asked) {
        if let Some(hear) = &self.0 {
            let asked = asked();
            let Asked { method, path, status, time } = &asked;
            let text = format!("{method} {path} {status} {:.3}s", time.as_secs_f64());
            hear(&Line { level, text, asked: Some(asked) });
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Log(…)" } else { "Log(none)" })
    }
}
