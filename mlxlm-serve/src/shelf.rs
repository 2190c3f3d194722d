//! The models that the server may run: each has an engine of its own, and they share a budget of memory.
//!
//! The first one is loaded as the server starts. The others are loaded when they are asked for, several at once if there is room for
//! all; those that nobody uses make room for them, the one that was used longest ago first. An engine without work for some time lets
//! its model go by itself, and gets it back with the next request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use mlxlm_core::free_memory;

use crate::api::adapters;
use crate::api::error::{ApiError, Result};
use crate::engine::{self, Handle, Loader, State};
use crate::options::ServerOptions;

/// A model beside the first.
#[derive(Clone)]
pub struct OtherModel {
    /// What clients may call it; the first is shown.
    pub names: Vec<String>,
    /// Loads it, on the thread of its engine.
    pub loader: Loader,
    /// The memory that it takes, in bytes: about that of its files. 0 if that is not known before.
    pub bytes: u64,
}

impl fmt::Debug for OtherModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, bytes, .. } = self;
        f.debug_struct("OtherModel").field("names", names).field("bytes", bytes).finish_non_exhaustive()
    }
}

/// Looks for a model by a name that no model has yet; it may take a while.
#[derive(Clone)]
pub struct Finder(Arc<dyn Fn(&str) -> Option<OtherModel> + Send + Sync>);

impl Finder {
    /// Calls a function with names as clients send them: it has to mistrust them.
    pub fn new(find: impl Fn(&str) -> Option<OtherModel> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finder(…)")
    }
}

/// The most models that are known by name.
const MOST: usize = 1024;

/// How long a model that is to make room may take to be gone.
const LEAVING: Duration = Duration::from_secs(30);

/// A model, and its engine once it was asked for.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) options: Arc<ServerOptions>,
    /// How it is loaded; the first one is by the server.
    source: Option<OtherModel>,
    bytes: u64,
    engine: Mutex<Option<Handle>>,
    /// When it was asked for last, in milliseconds since the shelf was made.
    used_ms: AtomicU64,
}

impl Stand {
    /// Its engine, if it has one.
    pub(crate) fn engine(&self) -> Option<Handle> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_engine(&self, engine: Option<Handle>) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = engine;
    }

    fn state(&self) -> Option<State> {
        self.engine().map(|engine| engine.status().state())
    }

    /// Whether it takes memory now.
    pub(crate) fn is_resident(&self) -> bool {
        matches!(self.state(), Some(State::Loading | State::Ready | State::Restarting))
    }

    /// What it is, in a word.
    pub(crate) fn status(&self) -> &'static str {
        self.state().map_or("unloaded", |state| state.name())
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.options.names
    }

    /// The name that is shown.
    pub(crate) fn name(&self) -> &str {
        self.names().first().map_or("default_model", String::as_str)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Shelf {
    stands: RwLock<Vec<Arc<Stand>>>,
    options: Arc<ServerOptions>,
    begin: Instant,
    /// Whoever makes room holds it, so that no two take the same.
    room: tokio::sync::Mutex<()>,
}

impl Shelf {
    /// The first model has its engine already.
    pub(crate) fn new(options: &Arc<ServerOptions>, first: Handle) -> Self {
        let first = Stand {
            options: Arc::clone(options),
            source: None,
            bytes: options.model_bytes,
            engine: Mutex::new(Some(first)),
            used_ms: AtomicU64::new(0),
        };
        let others = options.models.iter().map(|other| Arc::new(stand(options, other.clone())));
        let stands = RwLock::new([Arc::new(first)].into_iter().chain(others).collect());
        Self { stands, options: Arc::clone(options), begin: Instant::now(), room: tokio::sync::Mutex::new(()) }
    }

    /// All models, the first one first.
    pub(crate) fn stands(&self) -> Vec<Arc<Stand>> {
        self.stands.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The engines that there are, each with the first name of its model.
    pub(crate) fn engines(&self) -> impl Iterator<Item = (String, Handle)> + use<> {
        self.stands().into_iter().filter_map(|stand| Some((stand.name().to_owned(), stand.engine()?)))
    }

    /// The model of a name, perhaps with an adapter behind it; the first without one.
    pub(crate) async fn find(self: &Arc<Self>, asked: Option<&str>) -> Result<Arc<Stand>> {
        let stands = self.stands();
        let Some(asked) = asked.filter(|asked| adapters::split(asked, &[]).0 != "default_model") else {
            return stands.into_iter().next().ok_or_else(|| ApiError::no_model("", &[]));
        };
        let known = |name: &str| {
            let has = |stand: &&Arc<Stand>| stand.names().iter().any(|own| own == name);
            stands.iter().find(has).cloned()
        };
        let with_adapter = || stands.iter().find(|stand| adapters::split(asked, stand.names()).1.is_some()).cloned();
        if let Some(stand) = known(asked).or_else(with_adapter) {
            return Ok(stand);
        }
        let (shelf, name) = (Arc::clone(self), asked.to_owned());
        let found = tokio::task::spawn_blocking(move || shelf.discover(&name)).await.ok().flatten();
        let names = || stands.iter().filter_map(|stand| stand.names().first().cloned()).collect::<Vec<_>>();
        found.ok_or_else(|| ApiError::no_model(crate::api::fields::cut(asked), &names()))
    }

    /// Looks for a model that nobody has asked for yet.
    fn discover(&self, name: &str) -> Option<Arc<Stand>> {
        let Finder(find) = self.options.finder.as_ref()?;
        let stand = Arc::new(stand(&self.options, find(name)?));
        let mut stands = self.stands.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have found it meanwhile.
        if let Some(known) = stands.iter().find(|known| known.names() == stand.names()) {
            return Some(Arc::clone(known));
        }
        (stands.len() < MOST).then(|| stands.push(Arc::clone(&stand)))?;
        Some(stand)
    }

    /// The engine of a model, which is loaded if it is not.
    pub(crate) async fn engine(&self, stand: &Arc<Stand>) -> Result<Handle> {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        stand.used_ms.store(now, Ordering::Relaxed);
        let engine = match stand.engine() {
            Some(engine) if engine.status().state() == State::Ready => return Ok(engine),
            // The first comes up, or has failed, with the server.
            Some(engine) if stand.source.is_none() && engine.status().state() != State::Asleep => return Ok(engine),
            _ => self.load(stand).await?,
        };
        let mut states = engine.status().watch();
        let known = states.wait_for(|state| !matches!(state, State::Loading | State::Restarting)).await;
        match known.map(|state| state.clone()) {
            Ok(State::Ready | State::Asleep) => Ok(engine),
            Ok(State::Failed(message)) => {
                // The next request tries again.
                stand.set_engine(None);
                let message = format!("the model cannot be loaded: {message}");
                Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("model_not_loaded"))
            }
            _ => Err(engine::Refused::Unavailable.into()),
        }
    }

    /// Begins to load a model, once there is room for it.
    async fn load(&self, stand: &Arc<Stand>) -> Result<Handle> {
        let _room = self.room.lock().await;
        if let Some(engine) = stand.engine().filter(|_| stand.is_resident()) {
            return Ok(engine);
        }
        self.make_room(stand).await?;
        if let Some(engine) = stand.engine().filter(|engine| engine.status().state() == State::Asleep) {
            engine.wake();
            return Ok(engine);
        }
        let Some(source) = &stand.source else { return Err(engine::Refused::Unavailable.into()) };
        let loader = Arc::clone(&source.loader);
        let options = &stand.options;
        let spawned = engine::spawn(loader, options.engine.clone(), options.limits.request_time, options.log.clone());
        let failed = |error| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no thread can be started for the model: {error}"))
        };
        let engine = spawned.map_err(failed)?;
        stand.set_engine(Some(engine.clone()));
        Ok(engine)
    }

    /// Lets go of models that nobody uses until there is room for this one.
    async fn make_room(&self, stand: &Arc<Stand>) -> Result<()> {
        loop {
            let resident: Vec<Arc<Stand>> = self.stands().into_iter().filter(|other| other.is_resident()).collect();
            let taken: u64 = resident.iter().map(|other| other.bytes).sum();
            let free = match self.options.memory_budget {
                Some(budget) => budget.saturating_sub(taken),
                None => free_memory::bytes().unwrap_or(u64::MAX),
            };
            if stand.bytes <= free {
                return Ok(());
            }
            let is_unused = |other: &&Arc<Stand>| {
                other.engine().is_some_and(|own| own.status().state() == State::Ready && own.inside() == 0)
            };
            // Nobody is let go in vain.
            let unused: Vec<&Arc<Stand>> = resident.iter().filter(is_unused).collect();
            let possible = unused.iter().fold(free, |free, other| free.saturating_add(other.bytes));
            let oldest = unused.iter().min_by_key(|other| other.used_ms.load(Ordering::Relaxed));
            let oldest = oldest.filter(|_| stand.bytes <= possible).and_then(|oldest| oldest.engine());
            let Some(engine) = oldest else {
                let (needs, free) = (stand.bytes.div_ceil(1 << 20), free >> 20);
                let name = stand.names().first().map_or("", String::as_str);
                let message = format!("the model `{name}` needs about {needs} MiB, and there are {free} MiB for it");
                let error = ApiError::new(StatusCode::INSUFFICIENT_STORAGE, message);
                return Err(error.code("insufficient_memory").retry_after(5));
            };
            if !engine.unload(LEAVING).await {
                return Err(engine::Refused::Unavailable.into());
            }
        }
    }

    /// Lets go of a model; whether it was in memory. One that is used stays.
    pub(crate) async fn unload(&self, stand: &Stand) -> Result<bool> {
        let Some(engine) = stand.engine().filter(|engine| engine.status().state() == State::Ready) else {
            return Ok(false);
        };
        if engine.inside() > 0 {
            let message = "the model is in use; try again when its requests are done";
            return Err(ApiError::new(StatusCode::CONFLICT, message).code("model_in_use").retry_after(5));
        }
        Ok(engine.unload(LEAVING).await)
    }

    /// Has all engines write what they keep, and end.
    pub(crate) async fn leave(&self, patience: Duration) {
        let engines: Vec<Handle> = self.stands().iter().filter_map(|stand| stand.engine()).collect();
        futures_util::future::join_all(engines.iter().map(|engine| engine.leave(patience))).await;
    }
}

/// A model that is not loaded, with the options of the server.
fn stand(options: &Arc<ServerOptions>, other: OtherModel) -> Stand {
    let options = Arc::new(ServerOptions { names: other.names.clone(), ..ServerOptions::clone(options) });
    let bytes = other.bytes;
    Stand { options, source: Some(other), bytes, engine: Mutex::new(None), used_ms: AtomicU64::new(0) }
}
