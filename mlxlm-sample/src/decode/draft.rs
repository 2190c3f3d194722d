//! One sequence with a draft model (`speculative_generate_step` in `mlx_lm/generate.py` 0.32.2; arXiv:2211.17192 for the
//! idea): a small model proposes k tokens, the large one reads them all at once and draws its own token at each place;
//! its tokens are handed out up to and including the first that differs.
//!
//! Unusual:
//! - The large model's own draws are handed out, so the text is that of plain decoding with the same seed, up to near
//!   ties between the results of long and short products. The draft model draws with the same noise, so that the two
//!   differ no more often than the models do.
//! - Processors see the whole history, not only what follows the prompt's last token.
//! - Where a window has filled so far that tokens could not be taken back, it goes on without proposals.

use std::collections::VecDeque;

use mlxlm_cache::Caches;
use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, memory, transforms};
use mlxlm_models::CausalLm;

use super::choose::{Choice, Chooser};
use super::lane::{Lane, Slot};
use super::{CLEAR_EVERY, Progress, Token, row_of};
use crate::scalar::{never, vocab_size};
use crate::{GenerateOptions, Result};

/// A model with caches that somebody else wants to keep, or with none.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The model that proposes.
    pub model: &'a dyn CausalLm,
    /// Its caches, which hold the same tokens as those of the model that checks.
    pub caches: Option<&'a mut Caches>,
}

/// The tokens that follow a prompt, proposed by a draft model where it can.
pub struct DraftDecoding<'a> {
    model: Lane<'a>,
    draft: Lane<'a>,
    chooser: Chooser,
    /// The prompt and all that was generated.
    text: Vec<u32>,
    prompt_len: usize,
    max_tokens: Option<usize>,
    num_draft_tokens: usize,
    progress: Option<Box<Progress<'a>>>,
    /// Generated and not yet handed out.
    ready: VecDeque<Token>,
    handed_out: usize,
    is_over: bool,
}

impl<'a> DraftDecoding<'a> {
    /// Checks everything; the prompt is read when the first token is asked for.
    pub fn new(
        model: &'a dyn CausalLm,
        prompt: &[u32],
        caches: Option<&'a mut Caches>,
        draft: Draft<'a>,
        chooser: Chooser,
        options: &GenerateOptions,
    ) -> Result<Self> {
        options.check()?;
        let model = Lane::new(model, caches.map(Slot::Lent), options)?;
        let draft = Lane::new(draft.model, draft.caches.map(Slot::Lent), options)?;
        model.check_trimmable()?;
        draft.check_trimmable()?;
        model.check_prompt(prompt)?;
        chooser.check_vocabulary(model.vocab_size())?;
        Ok(Self {
            model,
            draft,
            chooser,
            text: prompt.to_vec(),
            prompt_len: prompt.len(),
            max_tokens: options.max_tokens,
            num_draft_tokens: options.num_draft_tokens,
            progress: None,
            ready: VecDeque::new(),
            handed_out: 0,
            is_over: false,
        })
    }

    /// Has the reading of the prompt by the large model reported.
    #[must_use]
    pub fn with_progress(mut self, progress: Option<Box<Progress<'a>>>) -> Self {
        self.progress = progress;
        self
    }

    /// Brings caches that are lent to where they hold the prompt and every token handed out.
    pub fn settle(&mut self) -> Result<()> {
        let end = self.prompt_len + self.handed_out;
        let for_draft = self.for_draft(0);
        self.model.settle(&self.text[..end])?;
        self.draft.settle(&for_draft[..end])
    }

    fn start(&mut self) -> Result<()> {
        let total = self.prompt_len;
        let before = &self.text[..total - 1];
        self.draft.prefill(&self.for_draft(0)[..total - 1], &mut |_| {})?;
        let progress = &mut self.progress;
        let mut report = |done| progress.iter_mut().for_each(|progress| progress(done, total));
        self.model.prefill(before, &mut report)?;
        if !before.is_empty() {
            self.chooser.note(&row_of(before))?;
        }
        Ok(())
    }

    /// Tokens from `from` on for the draft model: those that it does not know are its last, as it only guesses anyway.
    fn for_draft(&self, from: usize) -> Vec<u32> {
        let last = self.draft.vocab_size().max(1) as u32 - 1;
        self.text[from..].iter().map(|&id| id.min(last)).collect()
    }

    /// How many tokens to propose now: the last one that is wanted need not be.
    fn proposals(&self) -> usize {
        let generated = self.text.len() - self.prompt_len;
        let wanted = self.max_tokens.map_or(usize::MAX, |max| max - generated);
        let n = self.num_draft_tokens.min(wanted - 1);
        let unread = self.text.len() - self.draft.read();
        if self.draft.can_take_back(unread + n) && self.model.can_take_back(1 + n) { n } else { 0 }
    }

    /// Lets the draft model go on by `n` tokens, each `[1]`.
    fn propose(&mut self, n: usize) -> Result<Vec<Array>> {
        let mut chooser = self.chooser.clone();
        chooser.note(&row_of(&self.text[self.model.read()..]))?;
        let mut input = row_of(&self.for_draft(self.draft.read()));
        let mut proposed = Vec::with_capacity(n);
        for _ in 0..n {
            let logits = self.draft.forward(&input)?.try_index((.., -1, ..))?;
            let token = chooser.choose(&with_vocabulary(&logits, self.model.vocab_size())?)?.token;
            chooser.note(&token)?;
            transforms::async_eval([&token])?;
            input = token.reshape(&[1, 1])?;
            proposed.push(token);
        }
        Ok(proposed)
    }

    /// Proposes, checks, and makes what comes of it ready.
    fn round(&mut self) -> Result<()> {
        let (begin, generated) = (self.text.len(), self.text.len() - self.prompt_len);
        let proposed = self.propose(self.proposals())?;

        let mut input = vec![row_of(&self.text[self.model.read()..])];
        for token in &proposed {
            input.push(token.reshape(&[1, 1])?);
        }
        let logits = self.model.forward(&ops::concatenate(&input, 1)?)?;
        let mut chosen: Vec<(Choice, Chooser)> = Vec::with_capacity(input.len());
        for (i, token) in input.iter().enumerate() {
            self.chooser.note(token)?;
            let choice = self.chooser.choose(&logits.try_index((.., i as i32, ..))?)?;
            chosen.push((choice, self.chooser.clone()));
        }
        let choices = chosen.iter().flat_map(|(choice, _)| choice.arrays());
        transforms::eval(choices.chain(&proposed).chain(self.chooser.arrays()))?;

        let mut accepted = 0;
        for (i, (choice, chooser)) in chosen.into_iter().enumerate() {
            let id = choice.id(generated + i)?;
            let agrees = match proposed.get(i) {
                Some(token) => token.eq_values(&choice.token)?,
                None => false,
            };
            self.ready.push_back(choice.read(generated + i, agrees)?);
            self.text.push(id);
            if !agrees {
                self.chooser = chooser;
                accepted = i;
                break;
            }
        }
        self.model.rewind(begin + accepted)?;
        self.draft.rewind(begin + accepted)
    }

    fn advance(&mut self) -> Result<Token> {
        if self.text.len() == self.prompt_len {
            self.start()?;
        }
        let token = loop {
            match self.ready.pop_front() {
                Some(token) => break token,
                None => self.round()?,
            }
        };
        if self.handed_out == 0 {
            let total = self.prompt_len;
            self.progress.iter_mut().for_each(|progress| progress(total, total));
        }
        if self.handed_out.is_multiple_of(CLEAR_EVERY) {
            memory::clear_cache()?;
        }
        self.handed_out += 1;
        Ok(token)
    }
}

impl Iterator for DraftDecoding<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over || self.max_tokens.is_some_and(|max| self.handed_out >= max) {
            return None;
        }
        let token = self.advance();
        self.is_over = token.is_err();
        Some(token)
    }
}

/// Logits over a vocabulary of another size, as when two models of a family pad theirs differently: `[1, V]`.
fn with_vocabulary(logits: &Array, size: i32) -> Result<Array> {
    let missing = size - vocab_size(logits);
    if missing <= 0 {
        return Ok(logits.try_index((.., ..size))?);
    }
    let padding = ops::broadcast_to(never(logits)?, &[1, missing])?;
    Ok(ops::concatenate(&[logits, &padding], 1)?)
}
