//! Rows whose next tokens are proposed: the model reads the proposals in one pass and chooses its own token after each of them;
//! its own are handed out, up to and including the first that differs (arXiv:2211.17192 for the idea).
//!
//! The text is that of plain decoding with the same seed, whoever proposes: the model's own choices are handed out, made with the
//! random numbers that plain decoding would have drawn. What caches read too much is taken back; recurrent states are made again
//! from the operands of the pass. Where a cache can do neither, all return to where they were before the pass, and the tokens that
//! were right are read once more with the next proposals.

use mlxlm_cache::Mark;
use mlxlm_core::Array;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_models::CausalLm;

use super::choose::{Choice, Chooser};
use super::sequence::Row;
use super::{Event, FinishReason, row_of};
use crate::grammar::Mask;
use crate::propose::Scene;
use crate::{Error, Result};

/// The most tokens of a pass of this kind. Up to here a token has the same bits as alone.
const MOST: usize = 64;

/// The most tokens that are proposed at once.
pub const MAX_DRAFT_TOKENS: usize = MOST - 1;

/// What a row reads, all known.
pub(super) struct Checked {
    /// Tokens of the text that are not read, and then the proposals.
    pub tokens: Vec<u32>,
    /// What is proposed after the text.
    pub drafts: Vec<u32>,
    /// What may come after the text and after each proposal; empty if anything may.
    masks: Vec<Mask>,
    /// Where the caches were before.
    mark: Mark,
    /// The tokens that they held.
    read: usize,
}

impl Checked {
    pub(super) fn plan(row: &mut Row, model: &dyn CausalLm) -> Result<Self> {
        let unread = row.text.len() - row.read;
        let room = row.wanted().saturating_sub(1).min(MOST.saturating_sub(unread));
        let room = room.min(row.room_before_quantization().saturating_sub(unread));
        let alike = |n: usize| row.caches.sees_alike((unread + n) as i32);
        let room = [room, row.num_draft_tokens.min(room)].into_iter().find(|&n| alike(n)).unwrap_or(0);
        let most = row.num_draft_tokens.min(room);
        // What the grammar leaves no choice about need not be guessed.
        let mut drafts = match &mut row.matcher {
            Some(matcher) if room > 0 => matcher.forced()?,
            _ => Vec::new(),
        };
        drafts.truncate(room);
        if let Some(proposer) = &mut row.proposer
            && most > 0
            && drafts.is_empty()
        {
            let scene = Scene { model, text: &row.text, noted: row.noted, chooser: &row.chooser, most };
            drafts = proposer.propose(&scene)?;
            drafts.truncate(most);
        }
        let vocab_size = model.info().vocab_size;
        if let Some(&id) = drafts.iter().find(|&&id| i64::from(id) >= i64::from(vocab_size)) {
            return Err(Error::TokenOutOfRange { name: "proposal", id, vocab_size });
        }
        let masks = match &mut row.matcher {
            Some(matcher) => matcher.masks_along(&drafts)?,
            None => Vec::new(),
        };
        if !masks.is_empty() {
            // The grammar allows no more of them.
            drafts.truncate(masks.len() - 1);
        }
        let mark = row.caches.mark((unread + drafts.len()) as i32);
        row.caches.note_pass(!drafts.is_empty());
        let tokens = [&row.text[row.read..], &drafts].concat();
        Ok(Self { tokens, drafts, masks, mark, read: row.read })
    }
}

impl Row<'_> {
    /// The choice after the last token of the text and after each proposal, each with the chooser as it is then.
    ///
    /// # Shapes
    /// - `logits`: `[1, L, V]`, of the tokens that were read
    pub(super) fn choose_each(&mut self, checked: &Checked, logits: &Array) -> Result<Vec<(Choice, Chooser)>> {
        self.read = self.text.len() + checked.drafts.len();
        let first = checked.tokens.len() - checked.drafts.len() - 1;
        let mut chooser = self.chooser.clone();
        if self.noted < self.text.len() {
            chooser.note(&row_of(&self.text[self.noted..]))?;
        }
        let mut choices = Vec::with_capacity(checked.drafts.len() + 1);
        for i in 0..=checked.drafts.len() {
            if i > 0 {
                chooser.note(&row_of(&checked.drafts[i - 1..i]))?;
            }
            let mut logits = logits.try_index((.., (first + i) as i32, ..))?;
            if let Some(mask) = checked.masks.get(i) {
                logits = mask.apply(&logits)?;
            }
            let choice = chooser.choose(&logits)?;
            choices.push((choice, chooser.clone()));
        }
        Ok(choices)
    }

    /// Hands out the model's own tokens up to the first that was not proposed. How many proposals were right, and whether the last
    /// token ends the text.
    pub(super) fn accept(
        &mut self,
        model: &dyn CausalLm,
        checked: Checked,
        choices: Vec<(Choice, Chooser)>,
        states: Option<&Array>,
        events: &mut Vec<Event>,
    ) -> Result<(usize, Option<FinishReason>)> {
        let begin = self.text.len();
        let (mut accepted, mut finish) = (0, None);
        for (i, (choice, chooser)) in choices.into_iter().enumerate() {
            let mut token = choice.read(self.generated(), false)?;
            let agrees = checked.drafts.get(i) == Some(&token.id);
            token.from_draft = agrees;
            self.chooser = chooser;
            self.noted = begin + i;
            accepted += usize::from(agrees);
            finish = self.emit(token, events)?;
            if !agrees || finish.is_some() {
                break;
            }
        }
        let surplus = checked.drafts.len() - accepted;
        if surplus > 0 {
            if self.caches.take_back(&checked.mark, (checked.tokens.len() - surplus) as i32)? {
                self.read -= surplus;
            } else {
                self.caches.rewind(checked.mark.clone());
                self.read = checked.read;
            }
        }
        self.caches.note_pass(false);
        self.undo = self.keep_caches.then(|| (checked.mark.clone(), checked.read));
        if let Some(proposer) = &mut self.proposer {
            proposer.checked(checked.drafts.len(), accepted);
            if let Some(states) = states {
                let right = checked.tokens.len() - surplus;
                let states = states.try_index((.., ..right as i32, ..))?;
                proposer.observe(model, checked.read, &checked.tokens[..right], &states)?;
            }
        }
        Ok((accepted, finish))
    }
}
