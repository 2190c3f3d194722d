//! The engine: one thread that owns the model, the caches and every array, and what the rest of the server knows of it.
//!
//! [`Handle::submit`] sends a [`Job`] and gives a [`Ticket`], on which the [`Update`]s come. Whoever drops the ticket has no more
//! use for the job: it ends within one step, wherever it is. The thread runs a [`scheduler`] over one `mlxlm_sample` engine; should
//! it break down, a fresh one takes its place once.

mod adapter_set;
mod adapters;
mod card;
mod fingerprint;
mod gate;
mod job;
mod reuse;
mod scheduler;
mod score;
mod status;
mod thinking;
mod thread;

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use mlxlm_models::Loaded;
use mlxlm_sample::KvQuantization;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub(crate) use adapters::{AdapterInfo, Order};
pub(crate) use card::Card;
pub(crate) use gate::{Gate, Permit};
pub(crate) use job::{Cancelled, Fault, FaultKind, Finish, Generate, Job, Message, Scored, Update, Work};
pub use reuse::DiskPromptCache;
pub(crate) use status::{AdapterUse, Number, Numbers, State, Status};
pub(crate) use thinking::ThinkingBudget;
pub(crate) use thread::spawn;

/// The models that an engine runs.
#[derive(Debug)]
pub struct Models {
    /// The model that answers.
    pub main: Loaded,
    /// A smaller one with the same tokenizer that proposes tokens.
    pub draft: Option<Loaded>,
}

/// Loads the models. It is called on the engine's thread, once more should the engine break down; what it returns never leaves that
/// thread. Whoever started the server gets the error.
pub type Loader = Arc<dyn Fn() -> Result<Models, String> + Send + Sync>;

/// How the engine works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most sequences that get a token in each step.
    pub decode_concurrency: usize,
    /// The most prompts that are read by turns.
    pub prompt_concurrency: usize,
    /// Tokens of a prompt that are read at a time, hence how long the others have to wait.
    pub prefill_step_size: usize,
    /// The most sequences whose caches are kept for prompts to come.
    pub prompt_cache_size: usize,
    /// The most memory of such caches, in bytes.
    pub prompt_cache_bytes: Option<usize>,
    /// Where prompts that were read are kept beyond the life of the server.
    pub disk_prompt_cache: Option<DiskPromptCache>,
    /// How keys and values are quantized.
    pub kv_quantization: Option<KvQuantization>,
    /// Whether the matrices that gated delta nets remember are kept in bf16.
    pub state_bf16: bool,
    /// Tokens that a draft model proposes at once.
    pub num_draft_tokens: usize,
    /// Proposes up to so many tokens that followed the same words before: in the prompt, in the answer, in past answers.
    pub prompt_lookup_num_tokens: Option<usize>,
    /// Proposes so many tokens by the model's own heads for further tokens, which have to be loaded with it.
    pub mtp: Option<usize>,
    /// Of all who propose takes what pays, measured as it goes, and nobody where nobody pays.
    pub auto_speculative: bool,
    /// How long a model without work stays in memory; `None` is for ever.
    pub idle_unload: Option<Duration>,
    /// Jobs that may wait beside those that are computed. More are refused.
    pub queue: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            decode_concurrency: 32,
            prompt_concurrency: 8,
            prefill_step_size: mlxlm_sample::prefill_step_size(None),
            prompt_cache_size: 10,
            prompt_cache_bytes: None,
            disk_prompt_cache: None,
            kv_quantization: None,
            state_bf16: false,
            num_draft_tokens: 3,
            prompt_lookup_num_tokens: None,
            mtp: None,
            auto_speculative: false,
            idle_unload: None,
            queue: 256,
        }
    }
}

impl EngineOptions {
    /// Whether tokens are proposed without a draft model.
    pub(crate) fn proposes(&self) -> bool {
        self.prompt_lookup_num_tokens.is_some() || self.mtp.is_some() || self.auto_speculative
    }
}

/// The engine as the rest of the server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    jobs: Sender<Message>,
    gate: Gate,
    status: Arc<Status>,
    /// How long a job may take.
    timeout: Option<Duration>,
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are as many as the server takes.
    Full,
    /// It would never be taken: it needs more places than there are.
    TooMany { capacity: usize },
    /// The engine is not there.
    Unavailable,
}

impl Handle {
    pub(crate) fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// What it has done.
    pub(crate) fn numbers(&self) -> &Numbers {
        &self.status.numbers
    }

    /// Jobs that are in the server.
    pub(crate) fn inside(&self) -> usize {
        self.gate.inside()
    }

    /// Whether another job would be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.gate.inside() < self.gate.capacity()
    }

    /// Sends jobs that come together; `places` of each say how many sequences it is.
    pub(crate) fn submit(&self, works: Vec<Work>) -> Result<Vec<Ticket>, Refused> {
        if !self.status.state().takes_jobs() {
            return Err(Refused::Unavailable);
        }
        let places = works.iter().map(Work::places).fold(0, usize::saturating_add);
        if places > self.gate.capacity() {
            return Err(Refused::TooMany { capacity: self.gate.capacity() });
        }
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let permits: Option<Vec<Permit>> = self
            .gate
            .enter(places)
            .and_then(|mut permit| works.iter().map(|work| permit.split(work.places())).collect());
        let permits = permits.ok_or(Refused::Full)?;
        works.into_iter().zip(permits).map(|(work, permit)| self.send(work, permit, deadline)).collect()
    }

    /// Sends a job.
    pub(crate) fn submit_one(&self, work: Work) -> Result<Ticket, Refused> {
        self.submit(vec![work])?.pop().ok_or(Refused::Unavailable)
    }

    fn send(&self, work: Work, permit: Permit, deadline: Option<Instant>) -> Result<Ticket, Refused> {
        let (updates, received) = unbounded_channel();
        let cancelled = Cancelled::default();
        let ticket = Ticket { updates: received, cancelled: cancelled.clone() };
        let job = Job { work, updates, cancelled, deadline, _permit: permit };
        self.jobs.send(Message::Job(job)).map(|()| ticket).map_err(|_| Refused::Unavailable)
    }

    /// Changes the adapters.
    pub(crate) fn order(&self, order: Order) -> Result<(), Refused> {
        if !self.status.state().takes_jobs() {
            return Err(Refused::Unavailable);
        }
        self.jobs.send(Message::Adapters(order)).map_err(|_| Refused::Unavailable)
    }

    /// Has a model that was let go loaded again.
    pub(crate) fn wake(&self) {
        self.status.set_state(State::Loading);
        // A thread that is gone has said so.
        drop(self.jobs.send(Message::Wake));
    }

    /// Has the model let go, and waits for that, for so long at most; whether it is gone.
    pub(crate) async fn unload(&self, patience: Duration) -> bool {
        let mut states = self.status.watch();
        if self.jobs.send(Message::Unload).is_err() {
            return false;
        }
        let gone = states.wait_for(|state| !matches!(state, State::Ready));
        tokio::time::timeout(patience, gone).await.is_ok_and(|state| state.is_ok())
    }

    /// Has the thread write what it keeps and end, and waits for that, for so long at most.
    pub(crate) async fn leave(&self, patience: Duration) {
        let runs = matches!(self.status.state(), State::Ready);
        if runs && self.jobs.send(Message::Leave).is_ok() {
            let mut states = self.status.watch();
            let ended = states.wait_for(|state| !matches!(state, State::Ready));
            // What was not written until then is read anew another time.
            drop(tokio::time::timeout(patience, ended).await);
        }
    }
}

/// A job that was sent. Dropping it cancels the job.
#[derive(Debug)]
pub(crate) struct Ticket {
    updates: UnboundedReceiver<Update>,
    cancelled: Cancelled,
}

impl Ticket {
    /// The next update. A job that ends without a word has failed.
    pub(crate) async fn next(&mut self) -> Update {
        self.updates.recv().await.unwrap_or_else(|| Update::Failed(Fault::gone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancelled.set();
    }
}
