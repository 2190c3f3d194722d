//! A model's own heads that predict further tokens (arXiv:2412.19437, section 5.4.3, where they are used like this).
//!
//! Unusual: it draws with the noise that the model will draw with, as a draft model does. It sees the states of all that the model
//! reads, prompts included, and needs no pass over the model of its own. Caches of the heads hold true pairs only, of a state and the
//! token after it: what is guessed beyond the text is taken back.

use mlxlm_cache::{Caches, Mark};
use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, Exception, transforms};
use mlxlm_models::{CausalLm, MtpHeads};

use super::{Proposer, Scene};
use crate::engine::row_of;
use crate::{Error, Result};

/// Pairs are read when a guess is wanted, in one pass, or once there are so many.
const MANY: usize = 64;

/// Proposes what a model's own further heads predict: each as far as it was trained for, and the last one beyond that, from states of
/// its own.
#[derive(Debug)]
pub struct Mtp {
    depth: usize,
    heads: Vec<Fed>,
    /// The tokens whose states were shown, from the first of the text on.
    seen: Vec<u32>,
}

/// What a head has read.
#[derive(Debug)]
struct Fed {
    caches: Caches,
    /// Pairs in the caches.
    read: usize,
    /// States that wait for the tokens after them, or for enough company: `[1, N, D]`.
    waiting: Option<Array>,
    /// What the head made of the last pair: `[1, 1, D]`.
    last: Option<Array>,
}

impl Mtp {
    /// Proposes at most `depth` tokens at a time, with the heads of this model.
    ///
    /// # Errors
    /// If the model was loaded without such heads, or has none; if `depth` is zero.
    pub fn new(model: &dyn CausalLm, depth: usize) -> Result<Self> {
        if depth == 0 {
            return Err(Error::parameter("depth", 0, "a positive number"));
        }
        let heads = heads_of(model)?;
        let fed = |head| Fed { caches: Caches::new(&heads.cache_kinds_of(head)), read: 0, waiting: None, last: None };
        Ok(Self { depth, heads: (0..heads.count()).map(fed).collect(), seen: Vec::new() })
    }

    /// Has the heads read all pairs whose tokens are known.
    fn read(&mut self, heads: &dyn MtpHeads, text: &[u32]) -> Result<()> {
        let mut states = None;
        for (number, head) in self.heads.iter_mut().enumerate() {
            if let Some(states) = states.take() {
                head.wait(&states)?;
            }
            let known = text.len().saturating_sub(1 + number + head.read);
            let Some(pairs) = head.take(known)? else { continue };
            let from = head.read + number + 1;
            let tokens = row_of(&text[from..from + pairs.dim(1) as usize]);
            let made = heads.states(number, &pairs, &tokens, Some(&mut head.caches))?;
            head.read += pairs.dim(1) as usize;
            head.last = Some(made.try_index((.., made.dim(1) - 1.., ..))?);
            states = Some(made);
        }
        let arrays =
            self.heads.iter().flat_map(|head| head.caches.arrays().into_iter().chain(&head.waiting).chain(&head.last));
        Ok(transforms::async_eval(arrays)?)
    }
}

/// The heads of a model, or an error that says what to do.
fn heads_of(model: &dyn CausalLm) -> Result<&dyn MtpHeads> {
    let without = || Error::NoMtpHeads { model_type: model.info().model_type.clone() };
    model.mtp().ok_or_else(without)
}

impl Fed {
    /// Adds states to those that wait.
    fn wait(&mut self, states: &Array) -> Result<()> {
        let all = match &self.waiting {
            Some(waiting) => ops::concatenate(&[waiting, states], 1)?,
            None => states.clone(),
        };
        self.waiting = Some(all);
        Ok(())
    }

    /// The first states that wait, at most `n`, which then do not wait any more.
    fn take(&mut self, n: usize) -> Result<Option<Array>> {
        let Some(waiting) = self.waiting.take() else { return Ok(None) };
        let (n, all) = (n as i32, waiting.dim(1));
        if n >= all {
            return Ok(Some(waiting));
        }
        self.waiting = Some(waiting.try_index((.., n.., ..))?);
        if n == 0 { Ok(None) } else { Ok(Some(waiting.try_index((.., ..n, ..))?)) }
    }
}

impl Proposer for Mtp {
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>> {
        let heads = heads_of(scene.model)?;
        let most = self.depth.min(scene.most);
        // Only the last token of the text is not read by the model when it asks.
        if most == 0 || self.seen.len() + 1 != scene.text.len() {
            return Ok(Vec::new());
        }
        self.read(heads, scene.text)?;
        let Some(mut state) = self.heads.first().and_then(|head| head.last.clone()) else { return Ok(Vec::new()) };
        let mut chooser = scene.chooser.clone();
        if scene.noted < scene.text.len() {
            chooser.note(&row_of(&scene.text[scene.noted..]))?;
        }
        let mut marks: Vec<Option<Mark>> = self.heads.iter().map(|_| None).collect();
        let mut proposed = Vec::with_capacity(most);
        loop {
            let logits = scene.model.head(&state)?.try_index((.., -1, ..))?;
            let token = chooser.choose(&logits)?.token;
            chooser.note(&token)?;
            proposed.push(token.try_item_exact::<u32>().map_err(|error| Exception::custom(error.to_string()))?);
            if proposed.len() == most {
                break;
            }
            let next = proposed.len().min(self.heads.len() - 1);
            let caches = &mut self.heads[next].caches;
            marks[next].get_or_insert_with(|| caches.mark(most as i32));
            state = heads.states(next, &state, &token.reshape(&[1, 1])?, Some(caches))?;
        }
        for (head, mark) in self.heads.iter_mut().zip(marks) {
            if let Some(mark) = mark {
                head.caches.rewind(mark);
            }
        }
        Ok(proposed)
    }

    fn wants_states(&self) -> bool {
        true
    }

    fn observe(&mut self, model: &dyn CausalLm, from: usize, tokens: &[u32], states: &Array) -> Result<()> {
        // Places that were shown before are shown again after a pass that had to be taken back.
        let Some(known) = self.seen.len().checked_sub(from).filter(|known| *known < tokens.len()) else {
            return Ok(());
        };
        let heads = heads_of(model)?;
        let new = heads.entry(&states.try_index((.., known as i32.., ..))?)?;
        self.seen.extend(&tokens[known..]);
        let Some(first) = self.heads.first_mut() else { return Ok(()) };
        first.wait(&new)?;
        if first.waiting.as_ref().is_some_and(|waiting| waiting.dim(1) as usize > MANY) {
            let text = std::mem::take(&mut self.seen);
            let read = self.read(heads, &text);
            self.seen = text;
            read?;
        }
        Ok(())
    }
}
