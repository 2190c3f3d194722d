//! One sequence, token by token (`generate_step` in `mlx_lm/generate.py` 0.32.2).
//!
//! Step n + 1 is built and dispatched before token n is read, so the device does not wait for us. When a token is
//! handed out, lent caches hold the prompt and every token handed out. Unusual: caches that nobody will see are not
//! brought that far after the last token, which saves a step.

use mlxlm_cache::Caches;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, memory, transforms};
use mlxlm_models::CausalLm;

use super::choose::{Choice, Chooser};
use super::lane::{Lane, Slot};
use super::{CLEAR_EVERY, Progress, Token, row_of};
use crate::{GenerateOptions, Result};

/// The tokens that follow a prompt.
pub struct PlainDecoding<'a> {
    lane: Lane<'a>,
    chooser: Chooser,
    prompt: Vec<u32>,
    max_tokens: Option<usize>,
    progress: Option<Box<Progress<'a>>>,
    /// The token after those handed out, on its way.
    pending: Option<Choice>,
    handed_out: usize,
    is_over: bool,
}

impl<'a> PlainDecoding<'a> {
    /// Checks everything; the prompt is read when the first token is asked for.
    pub fn new(
        model: &'a dyn CausalLm,
        prompt: &[u32],
        caches: Option<&'a mut Caches>,
        chooser: Chooser,
        options: &GenerateOptions,
    ) -> Result<Self> {
        options.check()?;
        let lane = Lane::new(model, caches.map(Slot::Lent), options)?;
        lane.check_prompt(prompt)?;
        chooser.check_vocabulary(lane.vocab_size())?;
        Ok(Self {
            lane,
            chooser,
            prompt: prompt.to_vec(),
            max_tokens: options.max_tokens,
            progress: None,
            pending: None,
            handed_out: 0,
            is_over: false,
        })
    }

    /// Has the reading of the prompt reported.
    #[must_use]
    pub fn with_progress(mut self, progress: Option<Box<Progress<'a>>>) -> Self {
        self.progress = progress;
        self
    }

    /// The choice after the prompt, dispatched.
    fn start(&mut self) -> Result<Choice> {
        let (total, progress) = (self.prompt.len(), &mut self.progress);
        let before = &self.prompt[..total - 1];
        let mut report = |done| progress.iter_mut().for_each(|progress| progress(done, total));
        self.lane.prefill(before, &mut report)?;
        if !before.is_empty() {
            self.chooser.note(&row_of(before))?;
        }
        self.step(&row_of(&self.prompt[total - 1..]))
    }

    /// Reads a token `[1, 1]` and chooses the next; dispatched.
    fn step(&mut self, token: &Array) -> Result<Choice> {
        let logits = self.lane.forward(token)?;
        self.chooser.note(token)?;
        let choice = self.chooser.choose(&logits.try_index((.., -1, ..))?)?;
        transforms::async_eval(choice.arrays().into_iter().chain(self.chooser.arrays()))?;
        Ok(choice)
    }

    fn advance(&mut self) -> Result<Token> {
        let current = match self.pending.take() {
            Some(choice) => choice,
            None => self.start()?,
        };
        let token = current.token.reshape(&[1, 1])?;
        if !self.is_last() {
            self.pending = Some(self.step(&token)?);
        } else if self.lane.is_lent() {
            self.lane.forward(&token)?;
            transforms::async_eval(self.lane.caches().arrays())?;
        }
        let token = current.read(self.handed_out, false)?;
        if self.handed_out == 0 {
            let total = self.prompt.len();
            self.progress.iter_mut().for_each(|progress| progress(total, total));
        }
        if self.handed_out.is_multiple_of(CLEAR_EVERY) {
            memory::clear_cache()?;
        }
        self.handed_out += 1;
        Ok(token)
    }

    /// Whether the token that is on its way is the last that is wanted.
    fn is_last(&self) -> bool {
        self.max_tokens.is_some_and(|max| self.handed_out + 1 >= max)
    }
}

impl Iterator for PlainDecoding<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        self.is_over = self.is_last();
        let token = self.advance();
        self.is_over |= token.is_err();
        Some(token)
    }
}
