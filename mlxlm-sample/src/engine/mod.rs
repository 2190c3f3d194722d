//! The engine: any number of sequences, each with caches of its own, advanced together step by step.
//!
//! A [`Sequence`] is a prompt, a way to choose tokens, a budget, perhaps somebody who [proposes](crate::propose) tokens, and
//! caches. [`Engine::step`] reads one chunk of a prompt that waits, and then hands out the next token of every sequence that runs;
//! sequences come and go between any two steps. What the sequences do is written in [`Event`]s.
//!
//! - The engine borrows the model for a step only, so adapters may be swapped between steps.
//! - A sequence has the same tokens alone and beside any others: its caches, its random numbers and its history are its own.
//! - An error ends the sequence that it happened to, and no other.
//! - Step n + 1 is dispatched before token n is read, so that the device does not wait for us; not so for sequences whose next
//!   tokens are proposed, since a proposal needs to know the last token.
//!
//! [`Decoding`] is one sequence as an iterator. Nothing here knows text.

mod check;
mod choose;
mod decoding;
mod pass;
mod prefill;
mod room;
mod sequence;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mlxlm_cache::Caches;
use mlxlm_core::{Array, Exception, device, memory};
use mlxlm_models::CausalLm;

pub use check::MAX_DRAFT_TOKENS;
pub use choose::Chooser;
pub use decoding::{Decoding, Progress};
pub use prefill::{make_prompt_cache, prefill, prefill_by};
pub use room::check_room;
pub use sequence::Sequence;

use crate::{Error, Result, prefill_step_size};
use sequence::Row;

/// One token of a sequence.
#[derive(Debug, Clone)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The log-probabilities that it was drawn from, before the sampler's filters: `[V]`.
    pub logprobs: Array,
    /// Whether it had been proposed.
    pub from_draft: bool,
    /// Why it is the last of its sequence, if it is.
    pub finish: Option<FinishReason>,
}

impl Token {
    /// The log-probability of the token itself.
    pub fn logprob(&self) -> Result<f32> {
        let own = self.logprobs.take_axis(Array::from_int(self.id as i32), 0)?;
        Ok(own.try_item_cast::<f32>().map_err(|error| Exception::custom(error.to_string()))?)
    }
}

/// Why a text is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It has as many tokens as were wanted.
    Length,
}

impl FinishReason {
    /// The name in responses: `stop` or `length`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A sequence of an engine, counted from zero in the order in which they came.
pub type SequenceId = u64;

/// Caches with the tokens that they hold, those left out that were read before the sequence came.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The prompt, or so much of it as was read, and the tokens that were handed out.
    pub tokens: Vec<u32>,
    /// What was read.
    pub caches: Caches,
}

/// What happened to a sequence.
#[derive(Debug)]
pub struct Event {
    /// Which.
    pub id: SequenceId,
    /// What.
    pub kind: EventKind,
}

/// What may happen to a sequence.
#[derive(Debug)]
pub enum EventKind {
    /// So many tokens of its prompt are read: first none, then after each chunk.
    Read {
        /// Tokens that are read.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The caches at a position that the sequence named.
    Checkpoint(Kept),
    /// The next token. If it is the last, the sequence is gone.
    Token {
        /// The token.
        token: Token,
        /// The caches, with the last token, if they are kept.
        kept: Option<Kept>,
    },
    /// An error ended it. The caches, if they are kept, hold the text or some of it.
    Failed {
        /// What went wrong.
        error: Error,
        /// The caches.
        kept: Option<Kept>,
    },
}

/// How an engine works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// How many tokens of a prompt are read at a time, hence how long the others may have to wait.
    pub prefill_step_size: usize,
    /// The most sequences that get a token in each step; others wait with their prompt unread.
    pub max_running: usize,
    /// Reads all prompts that wait before any sequence goes on: best throughput, at the price of pauses.
    pub prefer_prefill_when_pending: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { prefill_step_size: prefill_step_size(None), max_running: 32, prefer_prefill_when_pending: false }
    }
}

/// What an engine counts as it works.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counters {
    /// Tokens of prompts that were read.
    pub prompt_tokens: usize,
    /// Time that this took.
    pub prompt_time: Duration,
    /// Tokens that were generated, those that ended a text included.
    pub generation_tokens: usize,
    /// Steps that this took.
    pub generation_steps: usize,
    /// Time that these steps took.
    pub decode_time: Duration,
    /// Tokens that were proposed.
    pub proposed_tokens: usize,
    /// Those of them that were right.
    pub accepted_tokens: usize,
}

/// Freed buffers are given back every so many steps, as they pile up while caches grow.
const CLEAR_EVERY: usize = 256;

/// Sequences under way. See the [module](self).
pub struct Engine<'p> {
    /// The first field, which is dropped first.
    _ahead: StepAhead,
    options: EngineOptions,
    /// Sequences whose prompt is not read to its end; each in its turn.
    waiting: VecDeque<Row<'p>>,
    running: Vec<Row<'p>>,
    /// Sequences that are over and held until they are removed, if [`hold`](Self::hold) says so.
    ended: Vec<Row<'p>>,
    hold: bool,
    next_id: SequenceId,
    counters: Counters,
}

impl<'p> Engine<'p> {
    /// An engine without sequences.
    pub fn new(options: EngineOptions) -> Result<Self> {
        if options.prefill_step_size == 0 {
            return Err(Error::parameter("prefill_step_size", 0, "a positive number"));
        }
        if options.max_running == 0 {
            return Err(Error::parameter("max_running", 0, "a positive number"));
        }
        Ok(Self {
            _ahead: StepAhead,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            ended: Vec::new(),
            hold: false,
            next_id: 0,
            counters: Counters::default(),
        })
    }

    /// Takes a sequence in, once everything about it is checked. Nothing is read before the next step.
    pub fn insert(&mut self, model: &dyn CausalLm, mut sequence: Sequence<'p>) -> Result<SequenceId> {
        let caches = sequence.caches.take();
        let reserved = self.check(model, &sequence, caches.as_ref())?;
        let caches = caches.map_or_else(|| sequence.empty_caches(&model.cache_kinds()), Ok)?;
        Ok(self.admit(sequence, caches, reserved))
    }

    /// Refuses what the model cannot read, or has no memory for: the bytes that the prompt will take in caches.
    fn check(&self, model: &dyn CausalLm, sequence: &Sequence, given: Option<&Caches>) -> Result<u64> {
        sequence.check(model, given)?;
        let reserved = self.waiting.iter().map(|row| row.reserved).fold(0, u64::saturating_add);
        room::check_sequence(model, sequence, reserved)
    }

    fn admit(&mut self, sequence: Sequence<'p>, caches: Caches, reserved: u64) -> SequenceId {
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Row::new(id, sequence, caches, reserved));
        id
    }

    /// Takes a sequence out, wherever it is, with its caches if they are kept. They then hold its prompt, or as much of it as was
    /// read, and every token that was handed out.
    pub fn remove(&mut self, model: &dyn CausalLm, id: SequenceId) -> Result<Option<Kept>> {
        let is_it = |row: &Row| row.id == id;
        let row = if let Some(at) = self.running.iter().position(is_it) {
            Some(self.running.remove(at))
        } else if let Some(at) = self.ended.iter().position(is_it) {
            Some(self.ended.remove(at))
        } else {
            self.waiting.iter().position(is_it).and_then(|at| self.waiting.remove(at))
        };
        row.map_or(Ok(None), |row| row.settle(model))
    }

    /// Takes back the last `n` tokens of a sequence, which one step has handed out.
    fn unsay(&mut self, id: SequenceId, n: usize) {
        if let Some(row) = self.running.iter_mut().chain(&mut self.ended).find(|row| row.id == id) {
            row.unsay(n);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sequences whose prompt is not read to its end.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that get a token in each step.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The memory of all caches, in bytes.
    pub fn cache_bytes(&self) -> usize {
        self.waiting.iter().chain(&self.running).map(|row| row.caches.nbytes()).sum()
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Reads a chunk of a prompt, if one waits, and hands out the next tokens of all sequences that run.
    ///
    /// Errors here are those of the device; what goes wrong with a sequence is an event of that sequence.
    pub fn step(&mut self, model: &dyn CausalLm) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let begin = Instant::now();
        self.read_prompts(model, &mut events);
        let prefill = begin.elapsed();
        self.counters.prompt_time += prefill;
        let held_back = self.options.prefer_prefill_when_pending && self.has_room() && !self.waiting.is_empty();
        if !self.running.is_empty() && !held_back {
            let before = events.len();
            self.decode(model, &mut events);
            let tokens = events[before..].iter().filter(|event| matches!(event.kind, EventKind::Token { .. })).count();
            if self.counters.generation_steps.is_multiple_of(CLEAR_EVERY) {
                memory::clear_cache()?;
            }
            self.counters.generation_tokens += tokens;
            self.counters.generation_steps += 1;
            self.counters.decode_time += begin.elapsed().saturating_sub(prefill);
        }
        Ok(events)
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.options.max_running
    }

    /// Reads a chunk of the prompt whose turn it is.
    fn read_prompts(&mut self, model: &dyn CausalLm, events: &mut Vec<Event>) {
        if !self.has_room() {
            return;
        }
        let Some(mut row) = self.waiting.pop_front() else { return };
        let (id, total) = (row.id, row.prompt_len);
        if row.read == 0 {
            events.push(Event { id, kind: EventKind::Read { done: 0, total } });
        }
        let before = row.read;
        if let Err(error) = row.read_chunk(model, self.options.prefill_step_size) {
            events.push(row.fail(error));
            return;
        }
        self.counters.prompt_tokens += row.read - before;
        events.push(Event { id, kind: EventKind::Read { done: row.read, total } });
        events.extend(row.checkpoint().map(|kept| Event { id, kind: EventKind::Checkpoint(kept) }));
        if row.read == total {
            row.reserved = 0;
            self.running.push(row);
        } else {
            self.waiting.push_back(row);
        }
        // What a chunk took is of no use to the next token.
        drop(memory::clear_cache());
    }
}

/// Waits for the step ahead when it is dropped: nobody will read that step, and what it reads may be freed next.
#[derive(Debug)]
struct StepAhead;

impl Drop for StepAhead {
    fn drop(&mut self) {
        // An error of a step that nobody reads is nobody's; this takes it off the stream.
        drop(device::synchronize());
    }
}

/// Ids as an array `[1, L]`.
pub(crate) fn row_of(ids: &[u32]) -> Array {
    Array::from_slice(ids, &[1, ids.len() as i32])
}

#[cfg(test)]
mod tests;
