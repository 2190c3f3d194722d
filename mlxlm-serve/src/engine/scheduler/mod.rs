//! The scheduler: jobs in, updates out, over engines of `mlxlm_sample`, one for each adapter that is in use.
//!
//! - Jobs wait in the order in which they came, those of a higher priority first, until there is a place and the memory for them.
//! - Prompts are read by turns and a chunk at a time, between the steps of the sequences that run.
//! - What fails ends alone. A job that nobody waits for any more, or that took too long, ends before the next step.
//! - Several choices of a prompt read it once: its caches are copied before the last token.
//! - Sequences with the same adapter go through the model together; the adapter is changed between two steps.

mod aside;
mod count;
mod events;
mod propose;
mod start;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use mlxlm_cache::store::Checkpoint;
use mlxlm_core::device;
use mlxlm_models::{CausalLm, Loaded};
use mlxlm_sample::engine::{Counters, Engine, SequenceId};
use mlxlm_sample::propose::SharedIndex;
use mlxlm_sample::{Error, Result};

use super::adapters::{Adapter, Adapters, Order};
use super::job::{Fault, FaultKind, Generate, Job, Update, Work};
use super::reuse::Reuse;
use super::score::Scoring;
use super::thinking::Watch;
use super::{EngineOptions, Status};
use crate::options::Level;
use crate::text::RunningText;

/// So many sequences that fail one after the other, without any token between, mean that the device has broken down.
const SUSPICIOUS: usize = 4;

/// Tokens of past texts that are looked up, 15 to 30 MB.
const SHARED_TOKENS: usize = 1 << 18;

/// A job that was taken.
struct Asked {
    job: Job,
    /// Choices that are not over.
    open: Cell<usize>,
}

impl Asked {
    fn tell(&self, update: Update) {
        // A client that is gone is seen before the next step.
        drop(self.job.updates.send(update));
    }

    /// Ends the job with all its choices.
    fn fail(&self, fault: Fault) {
        self.tell(Update::Failed(fault));
        self.open.set(0);
        self.job.cancelled.set();
    }

    fn is_over(&self) -> bool {
        self.job.cancelled.is_set() || self.job.updates.is_closed()
    }

    fn generate(&self) -> Option<&Generate> {
        match &self.job.work {
            Work::Generate(generate) => Some(generate),
            Work::Embed { .. } => None,
        }
    }

    fn priority(&self) -> i64 {
        self.generate().map_or(0, |generate| generate.priority)
    }
}

/// One choice of a job, which is a sequence of an engine.
struct Row {
    asked: Rc<Asked>,
    choice: usize,
    /// Tokens that its caches had read before the sequence came: the beginning of the prompt, or all of a text that goes on.
    before: Vec<u32>,
    /// Places of the prompt that caches can go back to.
    checkpoints: Vec<Checkpoint>,
    text: RunningText,
    generated: usize,
    /// Where thinking has an end.
    watch: Option<Watch>,
    /// Whether the reading of its prompt is reported.
    is_reported: bool,
}

/// The sequences with one adapter.
struct Lane<'m> {
    adapter: Rc<Adapter>,
    engine: Engine<'m>,
}

/// A sequence: the number of its lane, and its own there.
type RowId = (u64, SequenceId);

/// See the [module](self).
pub(super) struct Scheduler<'m> {
    main: Loaded,
    draft: Option<&'m dyn CausalLm>,
    options: &'m EngineOptions,
    status: &'m Status,
    adapters: Adapters,
    lanes: BTreeMap<u64, Lane<'m>>,
    next_lane: u64,
    /// What lanes did that are gone.
    past: Counters,
    reuse: Reuse,
    /// Texts that were generated, for those that resemble them.
    texts: Option<Rc<RefCell<SharedIndex>>>,
    queue: VecDeque<Rc<Asked>>,
    /// Prompts that get log-probabilities, before their texts are generated.
    scoring: VecDeque<(Rc<Asked>, Scoring)>,
    /// Prompts to embed, and which of them is next.
    embedding: VecDeque<(Rc<Asked>, usize)>,
    rows: BTreeMap<RowId, Row>,
    failed_in_a_row: usize,
    memory_seen: Option<Instant>,
    /// Tokens that were read for scores and embeddings, beside the engines.
    read_apart: usize,
}

impl<'m> Scheduler<'m> {
    pub(super) fn new(
        main: Loaded,
        draft: Option<&'m dyn CausalLm>,
        options: &'m EngineOptions,
        status: &'m Status,
    ) -> Result<Self, String> {
        let looks_up = options.prompt_lookup_num_tokens.is_some() || options.auto_speculative;
        let mut scheduler = Self {
            reuse: Reuse::new(options, &*main.model)?,
            adapters: Adapters::new(&*main.model),
            main,
            draft,
            options,
            status,
            lanes: BTreeMap::new(),
            next_lane: 0,
            past: Counters::default(),
            texts: looks_up.then(|| Rc::new(RefCell::new(SharedIndex::new(SHARED_TOKENS)))),
            queue: VecDeque::new(),
            scoring: VecDeque::new(),
            embedding: VecDeque::new(),
            rows: BTreeMap::new(),
            failed_in_a_row: 0,
            memory_seen: None,
            read_apart: 0,
        };
        // Options that no engine takes are refused before the first request.
        let base = Rc::clone(scheduler.adapters.base());
        scheduler.lane(&base).map_err(|error| error.to_string())?;
        Ok(scheduler)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.active() == 0
    }

    /// Takes a job in, before those of a lower priority.
    pub(super) fn take(&mut self, job: Job) {
        let open = Cell::new(job.work.places());
        let asked = Rc::new(Asked { job, open });
        let at = self.queue.partition_point(|other| other.priority() >= asked.priority());
        self.queue.insert(at, asked);
    }

    /// Changes the adapters.
    pub(super) fn order(&mut self, order: Order) {
        // Who asked may be gone, and else looks at the list next.
        match order {
            Order::Load { name, folder, done } => {
                let loaded = self.adapters.load(&name, &folder, &*self.main.model);
                self.status.set_adapters(self.adapters.list());
                drop(done.send(loaded));
            }
            Order::Unload { name, done } => {
                let was_there = self.adapters.unload(&name);
                self.status.set_adapters(self.adapters.list());
                let _ = done.send(was_there);
            }
        }
    }

    /// Does the next piece of work of everybody. An error is one of the device, after which nothing can be trusted.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        self.drop_abandoned();
        self.admit();
        self.embed_one();
        self.score_one();
        self.step()?;
        self.write(true);
        self.count();
        match self.failed_in_a_row {
            SUSPICIOUS.. => Err(format!("{SUSPICIOUS} requests in a row failed")),
            _ => Ok(()),
        }
    }

    /// Takes a step of every lane.
    fn step(&mut self) -> Result<(), String> {
        for number in self.lanes.keys().copied().collect::<Vec<_>>() {
            let Some(lane) = self.lanes.get_mut(&number) else { continue };
            if lane.engine.is_idle() {
                if !self.adapters.is_known(&lane.adapter)
                    && let Some(lane) = self.lanes.remove(&number)
                {
                    add(&mut self.past, &lane.engine.counters());
                }
                continue;
            }
            self.adapters.put_on(&lane.adapter, &mut *self.main.model);
            let events = lane.engine.step(&*self.main.model).map_err(|error| error.to_string())?;
            self.status.numbers.steps.add(1);
            let mut spent = Vec::new();
            for event in events {
                self.handle(number, event, &mut spent);
            }
            spent.into_iter().for_each(|id| self.end_thinking(id));
        }
        Ok(())
    }

    /// Whether there is something to write to the disk.
    pub(super) fn has_to_write(&self) -> bool {
        self.reuse.has_to_write()
    }

    /// Writes a piece of what is kept to the disk.
    pub(super) fn write(&mut self, is_busy: bool) {
        if let Err(error) = self.reuse.write(is_busy) {
            self.warn(&error);
        }
        if !is_busy {
            self.count();
        }
    }

    /// Writes all that is kept to the disk.
    pub(super) fn flush(&mut self) {
        if let Err(error) = self.reuse.flush() {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &mlxlm_cache::Error) {
        self.status.log.say(Level::Warning, || format!("a prompt was not added to the prompt cache: {error}"));
    }

    /// The lane of an adapter, and a new one if it has none.
    fn lane(&mut self, adapter: &Rc<Adapter>) -> Result<u64> {
        if let Some((number, _)) = self.lanes.iter().find(|(_, lane)| Rc::ptr_eq(&lane.adapter, adapter)) {
            return Ok(*number);
        }
        let engine = Engine::new(mlxlm_sample::engine::EngineOptions {
            prefill_step_size: self.options.prefill_step_size,
            max_running: self.options.decode_concurrency,
            prefer_prefill_when_pending: false,
        })?;
        let number = self.next_lane;
        self.next_lane += 1;
        self.lanes.insert(number, Lane { adapter: Rc::clone(adapter), engine });
        Ok(number)
    }

    /// The adapter of a request.
    fn adapter(&self, generate: &Generate) -> Result<Rc<Adapter>, Fault> {
        let Some(name) = &generate.adapter else { return Ok(Rc::clone(self.adapters.base())) };
        let known = self.adapters.named(name).map(Rc::clone);
        known.ok_or_else(|| Fault::new(FaultKind::Request, format!("the adapter `{name}` was removed")))
    }

    /// Sequences and prompts that the engines have to do with.
    fn active(&self) -> usize {
        self.rows.len() + self.scoring.len() + self.embedding.len()
    }

    /// Ends jobs that nobody waits for, and those that took too long.
    fn drop_abandoned(&mut self) {
        let now = Instant::now();
        let mut cancelled = 0;
        let mut ends = |asked: &Asked| {
            if asked.is_over() {
                cancelled += usize::from(asked.open.replace(0) > 0);
                return true;
            }
            let is_late = asked.job.deadline.is_some_and(|deadline| deadline <= now);
            if is_late {
                asked.fail(Fault::new(FaultKind::Deadline, "the request took longer than the server allows"));
            }
            is_late
        };
        self.queue.retain(|asked| !ends(asked));
        self.scoring.retain(|(asked, _)| !ends(asked));
        self.embedding.retain(|(asked, _)| !ends(asked));
        let over: Vec<RowId> = self.rows.iter().filter(|(_, row)| ends(&row.asked)).map(|(&id, _)| id).collect();
        self.status.numbers.cancelled.add(cancelled);
        for id in over {
            self.remove(id);
        }
    }

    /// Starts jobs while there is room for them.
    fn admit(&mut self) {
        while self.active() < self.options.decode_concurrency
            && self.lanes.values().map(|lane| lane.engine.waiting()).sum::<usize>() + self.scoring.len()
                < self.options.prompt_concurrency
        {
            let Some(asked) = self.queue.pop_front() else { break };
            let error = match self.start(&asked) {
                Ok(()) => continue,
                Err(error) => error,
            };
            if matches!(error, Error::NoRoom { .. }) {
                if self.reuse.clear() {
                    drop(device::clear_cache());
                    self.queue.push_front(asked);
                    continue;
                }
                if self.active() > 0 {
                    // There will be room once others are over.
                    self.queue.push_front(asked);
                    break;
                }
            }
            self.fail(&asked, &error);
        }
    }

    /// A choice of a job is over as it should be.
    fn close(&mut self, asked: &Asked) {
        let open = asked.open.get().saturating_sub(1);
        asked.open.set(open);
        if open == 0 {
            self.status.numbers.done.add(1);
        }
    }

    fn fail(&mut self, asked: &Asked, error: &Error) {
        let fault = Fault::from(error);
        // Logits that are no numbers are the fault of weights or of what was asked.
        let is_device = fault.kind == FaultKind::Model && !matches!(error, Error::NotNumbers { .. });
        self.failed_in_a_row += usize::from(is_device);
        self.status.numbers.failed.add(1);
        asked.fail(fault);
    }
}

/// Adds what others counted.
fn add(all: &mut Counters, more: &Counters) {
    all.prompt_tokens += more.prompt_tokens;
    all.generation_tokens += more.generation_tokens;
    all.proposed_tokens += more.proposed_tokens;
    all.accepted_tokens += more.accepted_tokens;
}
