//! How the engine is, and what it has done: written by its thread, read by every other.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Card;
use super::adapters::AdapterInfo;
use crate::options::Log;

/// What the engine's thread does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It loads the model.
    Loading,
    /// It takes jobs.
    Ready,
    /// It has let its model go for want of work, and loads it again with the next job.
    Asleep,
    /// It broke down, and a fresh one loads the model.
    Restarting,
    /// It broke down for good, or never came up; this is why.
    Failed(String),
    /// The server ends.
    Ended,
}

impl State {
    /// Whether jobs are taken; those that come while a model loads wait for it.
    pub(crate) fn takes_jobs(&self) -> bool {
        matches!(self, Self::Ready | Self::Asleep)
    }

    /// Its name in `/health`.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Asleep => "asleep",
            Self::Restarting => "restarting",
            Self::Failed(_) => "failed",
            Self::Ended => "ended",
        }
    }
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Numbers that only the engine's thread changes, but for those of requests.
        #[derive(Debug, Default)]
        pub(crate) struct Numbers { $($(#[$doc])* pub(crate) $name: Number),* }
    };
}

numbers! {
    /// Sequences that wait for their turn.
    waiting,
    /// Sequences whose prompt is read or that get tokens.
    running,
    /// Tokens of prompts that were read.
    prompt_tokens,
    /// Tokens of prompts that were known.
    cached_tokens,
    /// Tokens that were generated.
    generated_tokens,
    /// Tokens that were proposed.
    proposed_tokens,
    /// Those of them that were right.
    accepted_tokens,
    /// Steps.
    steps,
    /// Jobs whose client went away.
    cancelled,
    /// Jobs that failed.
    failed,
    /// Jobs that were done.
    done,
    /// Memory of the caches of sequences that run, in bytes.
    cache_bytes,
    /// Memory of the caches that are kept for prompts to come, in bytes.
    kept_bytes,
    /// Sequences that are kept for prompts to come.
    kept_sequences,
    /// Prompts of which a beginning was known.
    cache_hits,
    /// Prompts of which none was.
    cache_misses,
    /// The share of the memory for caches that is taken, in millionths.
    cache_usage_ppm,
    /// Prompts that went on from the disk.
    disk_hits,
    /// Sequences that were written to the disk.
    disk_written,
    /// How often the engine was started anew.
    restarts,
}

/// A number that one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// The adapters that requests have, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AdapterUse {
    /// Those of sequences that are read or generated.
    pub(crate) running: BTreeSet<String>,
    /// Those of requests that wait for their turn.
    pub(crate) waiting: BTreeSet<String>,
}

/// How the engine is.
#[derive(Debug)]
pub(crate) struct Status {
    state: watch::Sender<State>,
    card: RwLock<Option<Arc<Card>>>,
    adapters: RwLock<Arc<[AdapterInfo]>>,
    adapter_use: RwLock<AdapterUse>,
    pub(crate) log: Log,
    pub(crate) numbers: Numbers,
    begin: Instant,
    /// When the step that runs was begun, in milliseconds since `begin`, plus one; 0 while there is nothing to do.
    busy_since_ms: AtomicU64,
}

impl Status {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            state: watch::Sender::new(State::Loading),
            card: RwLock::default(),
            adapters: RwLock::new(Arc::new([])),
            adapter_use: RwLock::default(),
            log,
            numbers: Numbers::default(),
            begin: Instant::now(),
            busy_since_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Hears of every change of the state.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    /// The facts of the model, once it is loaded.
    pub(crate) fn card(&self) -> Option<Arc<Card>> {
        self.card.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_card(&self, card: Card) {
        *self.card.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(card));
    }

    /// The adapters that can be asked for.
    pub(crate) fn adapters(&self) -> Arc<[AdapterInfo]> {
        Arc::clone(&self.adapters.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_adapters(&self, adapters: Vec<AdapterInfo>) {
        *self.adapters.write().unwrap_or_else(PoisonError::into_inner) = adapters.into();
    }

    /// The adapters that requests have.
    pub(crate) fn adapter_use(&self) -> AdapterUse {
        self.adapter_use.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_adapter_use(&self, adapters: AdapterUse) {
        let is_new = *self.adapter_use.read().unwrap_or_else(PoisonError::into_inner) != adapters;
        if is_new {
            *self.adapter_use.write().unwrap_or_else(PoisonError::into_inner) = adapters;
        }
    }

    /// A step begins, or there is nothing to do.
    pub(super) fn set_busy(&self, is_busy: bool) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        self.busy_since_ms.store(if is_busy { now } else { 0 }, Ordering::Relaxed);
    }

    /// For how long the step that runs has been running; nothing if the engine waits for work.
    pub(crate) fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.begin.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}
