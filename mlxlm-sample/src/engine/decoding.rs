//! One sequence as an iterator of its tokens.

use std::collections::VecDeque;

use mlxlm_cache::Caches;
use mlxlm_models::CausalLm;

use super::{Chooser, Counters, Engine, EngineOptions, EventKind, Kept, Sequence, SequenceId, Token};
use crate::grammar::Matcher;
use crate::propose::Proposer;
use crate::{GenerateOptions, Result};

/// Called with the tokens of the prompt that are read and with all of them: first with zero read, then after each chunk.
pub type Progress<'a> = dyn FnMut(usize, usize) + 'a;

/// The tokens that follow a prompt: an [`Engine`] with one sequence.
pub struct Decoding<'a> {
    engine: Engine<'a>,
    model: &'a dyn CausalLm,
    id: SequenceId,
    /// Whose caches are in use, to be put back.
    lent: Option<&'a mut Caches>,
    progress: Option<Box<Progress<'a>>>,
    /// Made and not handed out.
    ready: VecDeque<Result<Token>>,
    is_over: bool,
}

impl<'a> Decoding<'a> {
    /// Checks everything; the prompt is read when the first token is asked for. Caches that are lent come back when the text is over
    /// or this is dropped: they then hold the prompt and every token handed out.
    pub fn new(
        model: &'a dyn CausalLm,
        prompt: &[u32],
        caches: Option<&'a mut Caches>,
        chooser: Chooser,
        options: &GenerateOptions,
    ) -> Result<Self> {
        options.check()?;
        let prefill_step_size = options.prefill_step_size;
        let mut engine = Engine::new(EngineOptions { prefill_step_size, ..EngineOptions::default() })?;
        engine.hold = true;
        let mut sequence = Sequence::new(prompt.to_vec(), chooser, options);
        sequence.keep_caches = caches.is_some();
        let reserved = engine.check(model, &sequence, caches.as_deref())?;
        let mut lent = caches;
        let caches = match &mut lent {
            Some(lent) => std::mem::replace(*lent, Caches::new(&[])),
            None => sequence.empty_caches(&model.cache_kinds())?,
        };
        let id = engine.admit(sequence, caches, reserved);
        Ok(Self { engine, model, id, lent, progress: None, ready: VecDeque::new(), is_over: false })
    }

    /// Has the reading of the prompt reported.
    #[must_use]
    pub fn with_progress(mut self, progress: Option<Box<Progress<'a>>>) -> Self {
        self.progress = progress;
        self
    }

    /// Lets somebody propose tokens.
    #[must_use]
    pub fn with_proposer(mut self, proposer: Option<Box<dyn Proposer + 'a>>) -> Self {
        if let Some(row) = self.engine.waiting.front_mut() {
            row.proposer = proposer;
        }
        self
    }

    /// Lets the text be only what a grammar allows.
    #[must_use]
    pub fn with_matcher(mut self, matcher: Option<Matcher>) -> Self {
        if let Some(row) = self.engine.waiting.front_mut() {
            row.matcher = matcher;
        }
        self
    }

    /// Ends the text after any of these tokens.
    #[must_use]
    pub fn with_stop_tokens(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        if let Some(row) = self.engine.waiting.front_mut() {
            row.stop_tokens = ids.into_iter().collect();
        }
        self
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// Puts lent caches back, with the prompt and every token handed out in them; no token follows. Dropping does the same, but
    /// for errors, which it cannot report.
    pub fn settle(&mut self) -> Result<()> {
        self.is_over = true;
        // Tokens of the last step that nobody has asked for were never said.
        let unsaid = std::mem::take(&mut self.ready).into_iter().flatten().count();
        self.engine.unsay(self.id, unsaid);
        if let Some(kept) = self.engine.remove(self.model, self.id)? {
            self.put_back(kept);
        }
        Ok(())
    }

    fn put_back(&mut self, kept: Kept) {
        if let Some(lent) = self.lent.take() {
            *lent = kept.caches;
        }
    }

    /// Takes a step and keeps what comes of it.
    fn step(&mut self) -> Result<()> {
        for event in self.engine.step(self.model)? {
            match event.kind {
                EventKind::Read { done, total } => {
                    self.progress.iter_mut().for_each(|progress| progress(done, total));
                }
                EventKind::Checkpoint(_) => {}
                EventKind::Token { token, .. } => self.ready.push_back(Ok(token)),
                EventKind::Failed { error, kept } => {
                    self.ready.push_back(Err(error));
                    if let Some(kept) = kept {
                        self.put_back(kept);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Decoding<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.is_over && !self.engine.is_idle() {
            if let Err(error) = self.step() {
                self.ready.push_back(Err(error));
            }
        }
        let token = self.ready.pop_front();
        self.is_over |= !matches!(token, Some(Ok(_)));
        if self.ready.is_empty() && self.engine.is_idle() {
            self.is_over = true;
            if let Err(error) = self.settle() {
                return Some(Err(error));
            }
        }
        token
    }
}

impl Drop for Decoding<'_> {
    fn drop(&mut self) {
        if self.lent.is_some() || !self.engine.ended.is_empty() || !self.engine.is_idle() {
            // Nobody is left to hear of an error; the caches then hold less than the text, and a later prompt is read anew.
            drop(self.settle());
        }
    }
}
