//! Several sequences at once, each with its own sampler and its own end (`BatchGenerator` in `mlx_lm/generate.py`
//! 0.32.2, without its queue).
//!
//! Unusual: each prompt is read on its own, and only then are the caches merged into one that is padded on the left. So
//! a row reads its prompt as it would alone, whatever the others are.

use std::time::{Duration, Instant};

use mlxlm_cache::Caches;
use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, memory, transforms};
use mlxlm_models::CausalLm;

use super::choose::{Choice, Chooser, choose_rows};
use super::lane::{Lane, Slot};
use super::{CLEAR_EVERY, Token, row_of};
use crate::{GenerateOptions, Result};

/// A sequence of a batch.
#[derive(Debug)]
pub struct BatchRow {
    /// Its prompt.
    pub prompt: Vec<u32>,
    /// The most tokens to generate; `None` goes on until it is removed.
    pub max_tokens: Option<usize>,
    /// What was read before the prompt; it is not changed.
    pub caches: Option<Caches>,
    /// How its tokens are chosen.
    pub chooser: Chooser,
}

/// A token of one of the sequences.
#[derive(Debug, Clone)]
pub struct RowToken {
    /// The number of the sequence, counted from 0 in the order in which they were given.
    pub row: usize,
    /// The token.
    pub token: Token,
    /// Whether it is the last that was wanted of this sequence, which then leaves the batch.
    pub is_last: bool,
    /// What was read of this sequence, this token included, if it is the last and caches are kept.
    pub caches: Option<Caches>,
}

/// What a batch counts as it works.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BatchCounters {
    /// Tokens of prompts that were read.
    pub prompt_tokens: usize,
    /// Time that this took.
    pub prompt_time: Duration,
    /// Tokens that were generated, those that ended a text included.
    pub generation_tokens: usize,
    /// Steps that this took; each hands out a token of every sequence that is left.
    pub generation_steps: usize,
    /// Time that these steps took.
    pub decode_time: Duration,
}

impl BatchCounters {
    /// Counts what another batch did, too.
    pub fn add(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.prompt_time += other.prompt_time;
        self.generation_tokens += other.generation_tokens;
        self.generation_steps += other.generation_steps;
        self.decode_time += other.decode_time;
    }
}

/// The tokens that follow several prompts.
pub struct BatchDecoding<'a> {
    model: &'a dyn CausalLm,
    options: GenerateOptions,
    keep_caches: bool,
    waiting: Vec<BatchRow>,
    /// `choosers`, `pending` and the rows of `caches` belong to the sequences of `live`.
    live: Vec<Live>,
    choosers: Vec<Chooser>,
    pending: Vec<Choice>,
    caches: Option<Caches>,
    /// Whether `caches` are those of a batch, and not of a single sequence.
    is_merged: bool,
    counters: BatchCounters,
}

#[derive(Debug)]
struct Live {
    row: usize,
    handed_out: usize,
    max_tokens: Option<usize>,
}

impl Live {
    fn is_last(&self) -> bool {
        self.max_tokens.is_some_and(|max| self.handed_out + 1 >= max)
    }
}

impl<'a> BatchDecoding<'a> {
    /// Checks all rows; prompts are read at the first step. Of `options` those of reading and caching count, not those
    /// of choosing tokens, which are the rows' own. `keep_caches` hands the caches of each sequence out at its end.
    pub fn new(
        model: &'a dyn CausalLm,
        rows: Vec<BatchRow>,
        options: &GenerateOptions,
        keep_caches: bool,
    ) -> Result<Self> {
        options.check()?;
        for row in &rows {
            GenerateOptions { max_tokens: row.max_tokens, ..options.clone() }.check()?;
            let caches = row.caches.clone().map(Slot::Own);
            Lane::new(model, caches, options)?.check_prompt(&row.prompt)?;
            row.chooser.check_vocabulary(model.info().vocab_size)?;
        }
        Ok(Self {
            model,
            options: options.clone(),
            keep_caches,
            waiting: rows,
            live: Vec::new(),
            choosers: Vec::new(),
            pending: Vec::new(),
            caches: None,
            is_merged: false,
            counters: BatchCounters::default(),
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> BatchCounters {
        self.counters
    }

    /// The next token of every sequence that is left; nothing when none is.
    pub fn step(&mut self) -> Result<Vec<RowToken>> {
        if !self.waiting.is_empty() {
            self.start()?;
        }
        if self.live.is_empty() {
            return Ok(Vec::new());
        }
        let begin = Instant::now();
        let next = if self.keep_caches || !self.live.iter().all(Live::is_last) { self.forward()? } else { Vec::new() };
        let current = std::mem::replace(&mut self.pending, next);
        let mut tokens = Vec::with_capacity(current.len());
        for (live, choice) in self.live.iter_mut().zip(current) {
            let token = choice.read(live.handed_out, false)?;
            tokens.push(RowToken { row: live.row, token, is_last: live.is_last(), caches: None });
            live.handed_out += 1;
        }
        let ended: Vec<usize> = tokens.iter().filter(|token| token.is_last).map(|token| token.row).collect();
        let mut caches = self.remove(&ended)?.into_iter();
        for token in tokens.iter_mut().filter(|token| token.is_last) {
            token.caches = caches.next().flatten();
        }
        if self.counters.generation_steps.is_multiple_of(CLEAR_EVERY) {
            memory::clear_cache()?;
        }
        self.counters.generation_steps += 1;
        self.counters.generation_tokens += tokens.len();
        self.counters.decode_time += begin.elapsed();
        Ok(tokens)
    }

    /// Takes sequences out of the batch, as when a token ended their text. Those that are kept hand out their caches.
    pub fn remove(&mut self, rows: &[usize]) -> Result<Vec<Option<Caches>>> {
        let position = |row: &usize| self.live.iter().position(|live| live.row == *row);
        let at: Vec<Option<usize>> = rows.iter().map(position).collect();
        if at.iter().all(Option::is_none) {
            return Ok(vec![None; rows.len()]);
        }
        let extract = |at: &Option<usize>| match (&self.caches, at) {
            (Some(caches), Some(at)) if self.keep_caches && self.is_merged => Ok(Some(caches.extract(*at as i32)?)),
            (Some(caches), Some(_)) if self.keep_caches => Ok(Some(caches.clone())),
            _ => Ok(None),
        };
        let removed = at.iter().map(extract).collect::<Result<_>>()?;
        let left: Vec<usize> = (0..self.live.len()).filter(|i| !at.contains(&Some(*i))).collect();
        match &mut self.caches {
            Some(caches) if !left.is_empty() => caches.filter(&left.iter().map(|&i| i as i32).collect::<Vec<_>>())?,
            caches => *caches = None,
        }
        keep(&mut self.live, &left);
        keep(&mut self.choosers, &left);
        keep(&mut self.pending, &left);
        Ok(removed)
    }

    /// Reads the tokens on their way and chooses the next; dispatched.
    fn forward(&mut self) -> Result<Vec<Choice>> {
        let tokens: Vec<&Array> = self.pending.iter().map(|choice| &choice.token).collect();
        let tokens = ops::concatenate(&tokens, 0)?.reshape(&[-1, 1])?;
        let logits = self.model.forward(&tokens, self.caches.as_mut())?.try_index((.., -1, ..))?;
        if let (Some(kv), Some(caches)) = (self.options.kv_quantization, &mut self.caches) {
            kv.apply(caches)?;
        }
        for (chooser, choice) in self.choosers.iter_mut().zip(&self.pending) {
            chooser.note(&choice.token)?;
        }
        let next = choose_rows(&mut self.choosers, &logits)?;
        let choices = next.iter().flat_map(Choice::arrays);
        transforms::async_eval(choices.chain(self.choosers.iter().flat_map(Chooser::arrays)))?;
        Ok(next)
    }

    /// Reads every prompt, chooses the first tokens, and merges the caches.
    fn start(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut caches = Vec::with_capacity(self.waiting.len());
        for (row, waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let BatchRow { prompt, max_tokens, caches: read, mut chooser } = waiting;
            let mut lane = Lane::new(self.model, read.map(Slot::Own), &self.options)?;
            let (before, last) = prompt.split_at(prompt.len() - 1);
            lane.prefill(before, &mut |_| {})?;
            if !before.is_empty() {
                chooser.note(&row_of(before))?;
            }
            let logits = lane.forward(&row_of(last))?;
            chooser.note(&row_of(last))?;
            let choice = chooser.choose(&logits.try_index((.., -1, ..))?)?;
            transforms::eval(choice.arrays().into_iter().chain(chooser.arrays()).chain(lane.caches().arrays()))?;
            self.counters.prompt_tokens += prompt.len();
            self.live.push(Live { row, handed_out: 0, max_tokens });
            self.choosers.push(chooser);
            self.pending.push(choice);
            caches.extend(lane.into_caches());
        }
        // A sequence on its own keeps its own kind of cache, which may be one that has no batched twin.
        self.is_merged = caches.len() > 1;
        self.caches = if self.is_merged { Some(Caches::merge(&caches)?) } else { caches.pop() };
        self.counters.prompt_time += begin.elapsed();
        Ok(())
    }
}

/// Keeps the entries at the given places, which ascend; an empty list stays empty.
fn keep<T>(list: &mut Vec<T>, places: &[usize]) {
    let mut at = 0;
    list.retain(|_| {
        at += 1;
        places.binary_search(&(at - 1)).is_ok()
    });
}
