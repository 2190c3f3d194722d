//! A small model that proposes (`speculative_generate_step` in `mlx_lm/generate.py` 0.32.2).
//!
//! Unusual: it draws with the noise that the large model will draw with, so the two differ no more often than the models do; and any
//! architecture will do, recurrent ones too.

use mlxlm_cache::{Caches, Mark};
use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, Exception, transforms};
use mlxlm_models::CausalLm;

use super::{Proposer, Scene};
use crate::engine::row_of;
use crate::scalar::{never, vocab_size};
use crate::{GenerateOptions, Result};

/// A model that proposes, with caches that somebody else wants to keep, or with none.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The model that proposes.
    pub model: &'a dyn CausalLm,
    /// Its caches, which hold the same tokens as those of the model that checks.
    pub caches: Option<&'a mut Caches>,
}

/// Proposes what a smaller model with the same tokenizer would say.
#[derive(Debug)]
pub struct DraftModel<'a> {
    model: &'a dyn CausalLm,
    caches: Held<'a>,
    /// Tokens before the text that the caches do not hold yet.
    before: Vec<u32>,
    /// Tokens in the caches, those not counted that were there before.
    read: Vec<u32>,
    /// Where the caches were before the last proposals, and how many tokens they held.
    mark: Option<(Mark, usize)>,
    prefill_step_size: usize,
}

/// Caches of one's own, which nobody sees afterwards, or those of somebody else.
#[derive(Debug)]
enum Held<'a> {
    Own(Caches),
    Lent(&'a mut Caches),
}

impl Held<'_> {
    fn get_mut(&mut self) -> &mut Caches {
        match self {
            Self::Own(caches) => caches,
            Self::Lent(caches) => caches,
        }
    }
}

impl<'a> DraftModel<'a> {
    /// Checks that the caches fit, or makes some as the options want them.
    pub fn new(draft: Draft<'a>, options: &GenerateOptions) -> Result<Self> {
        let Draft { model, caches } = draft;
        let kinds = model.cache_kinds();
        let caches = match caches {
            None => Held::Own(options.caches(&kinds)?),
            Some(lent) => {
                lent.check_fits(&kinds)?;
                Held::Lent(lent)
            }
        };
        let prefill_step_size = options.prefill_step_size.max(1);
        Ok(Self { model, caches, before: Vec::new(), read: Vec::new(), mark: None, prefill_step_size })
    }

    /// Reads these tokens before the text, which the model that checks had read before the sequence came.
    #[must_use]
    pub fn with_text_before(mut self, tokens: &[u32]) -> Self {
        self.before = tokens.to_vec();
        self
    }

    /// Reads what comes before the text.
    fn read_before(&mut self) -> Result<()> {
        let before = std::mem::take(&mut self.before);
        let before = self.known(&before);
        let caches = self.caches.get_mut();
        for chunk in before.chunks(self.prefill_step_size) {
            self.model.hidden(&row_of(chunk), Some(caches))?;
            transforms::eval(caches.arrays())?;
        }
        Ok(())
    }

    /// Tokens that it does not know are its last, as it only guesses anyway.
    fn known(&self, tokens: &[u32]) -> Vec<u32> {
        let last = u32::try_from(self.model.info().vocab_size.max(1) - 1).unwrap_or(0);
        tokens.iter().map(|&id| id.min(last)).collect()
    }

    /// Goes back to where the caches hold nothing but the beginning of `text`.
    fn go_back(&mut self, text: &[u32]) {
        let same = self.read.iter().zip(text).take_while(|(a, b)| a == b).count();
        let surplus = self.read.len() - same;
        if surplus == 0 {
            return;
        }
        let caches = self.caches.get_mut();
        if caches.is_trimmable() {
            caches.trim(surplus as i32);
            self.read.truncate(same);
        } else if let Some((mark, read)) = self.mark.take() {
            caches.rewind(mark);
            self.read.truncate(read);
        }
    }

    /// Reads tokens; the logits after the last of them, `[1, V]`.
    fn forward(&mut self, tokens: &[u32]) -> Result<Array> {
        let known = self.known(tokens);
        let mut chunks = known.chunks(self.prefill_step_size).peekable();
        let caches = self.caches.get_mut();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let hidden = self.model.hidden(&row_of(chunk), Some(caches))?;
            if chunks.peek().is_none() {
                self.read.extend(tokens);
                let last = hidden.try_index((.., hidden.dim(1) - 1.., ..))?;
                return Ok(self.model.head(&last)?.try_index((.., -1, ..))?);
            }
            transforms::eval(caches.arrays())?;
        }
    }
}

impl Proposer for DraftModel<'_> {
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>> {
        self.read_before()?;
        self.go_back(scene.text);
        let unread = scene.text[self.read.len()..].to_vec();
        let mark = self.caches.get_mut().mark((unread.len() + scene.most) as i32);
        self.mark = Some((mark, self.read.len()));
        let mut chooser = scene.chooser.clone();
        if scene.noted < scene.text.len() {
            chooser.note(&row_of(&scene.text[scene.noted..]))?;
        }
        let mut input = unread;
        let mut proposed = Vec::with_capacity(scene.most);
        while proposed.len() < scene.most {
            let logits = with_vocabulary(&self.forward(&input)?, scene.model.info().vocab_size)?;
            let token = chooser.choose(&logits)?.token;
            chooser.note(&token)?;
            let id = token.try_item_exact::<u32>().map_err(|error| Exception::custom(error.to_string()))?;
            input = vec![id];
            proposed.push(id);
        }
        Ok(proposed)
    }

    fn settle(&mut self, text: &[u32]) -> Result<()> {
        if let Held::Own(_) = self.caches {
            return Ok(());
        }
        self.read_before()?;
        self.go_back(text);
        if self.read.len() < text.len() {
            self.forward(&text[self.read.len()..])?;
        }
        Ok(transforms::async_eval(self.caches.get_mut().arrays())?)
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
