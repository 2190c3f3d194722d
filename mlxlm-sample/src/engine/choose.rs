//! The choice of a token: logits → processors → log-probabilities → sampler (`_step` in `mlx_lm/generate.py` 0.32.2).
//!
//! Unusual: a chooser can be copied, random state and history included, and its copy chooses as it would have. That is
//! how a draft model and the model that checks it share their noise.

use std::rc::Rc;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, Exception, fast, ops};

use super::Token;
use crate::samplers::greedy;
use crate::scalar::{largest, scalar_like};
use crate::{Error, LogitsProcessor, ProcessorOptions, Result, Sampler, SamplerOptions, logits_processors};

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Chooser {
    sampler: Sampler,
    processors: Rc<[Box<dyn LogitsProcessor>]>,
    /// `[N]`; only kept where there are processors to read it.
    history: Array,
}

/// A token that is chosen, but perhaps not computed yet.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// `[1]`
    pub token: Array,
    /// `[1, V]`
    pub logprobs: Array,
    /// `[1, 1]` in f32: the logarithm of the sum of all, which is finite if and only if the logits make sense.
    total: Array,
}

impl Chooser {
    /// A chooser with processors of the caller's own.
    pub fn new(sampler: Sampler, processors: Vec<Box<dyn LogitsProcessor>>) -> Self {
        Self { sampler, processors: processors.into(), history: Array::from_slice::<u32>(&[], &[0]) }
    }

    /// A chooser as the options want it.
    pub fn from_options(sampler: &SamplerOptions, processors: &ProcessorOptions) -> Result<Self> {
        Ok(Self::new(Sampler::new(sampler)?, logits_processors(processors)?))
    }

    /// Refuses parameters that do not fit a vocabulary.
    pub fn check_vocabulary(&self, vocab_size: i32) -> Result<()> {
        self.sampler.check_vocabulary(vocab_size)?;
        self.processors.iter().try_for_each(|processor| processor.check_vocabulary(vocab_size))
    }

    /// Notes tokens that were read before the sequence came, as by caches that it goes on from, so that the processors know of them.
    pub fn note_before(&mut self, tokens: &[u32]) -> Result<()> {
        self.note(&Array::from_slice(tokens, &[tokens.len() as i32]))
    }

    /// Notes tokens that the model has read: `[N]` in any shape.
    pub(crate) fn note(&mut self, tokens: &Array) -> Result<()> {
        if !self.processors.is_empty() {
            self.history = ops::concatenate(&[&self.history, &tokens.reshape(&[-1])?], 0)?;
        }
        Ok(())
    }

    /// The next token.
    ///
    /// # Shapes
    /// `logits` `[1, V]`
    pub(crate) fn choose(&mut self, logits: &Array) -> Result<Choice> {
        let logits = self.processed(logits)?;
        let total = fast::logsumexp(&logits)?;
        let logprobs = logits.subtract(&total)?;
        Ok(Choice { token: self.sampler.sample(&logprobs)?, logprobs, total: total.as_dtype(Dtype::Float32)? })
    }

    /// What the processors make of the logits. Where they raise a finite one beyond its type, it is the largest of the type: the
    /// token is as good as chosen, and no reason to give up.
    fn processed(&self, logits: &Array) -> Result<Array> {
        if self.processors.is_empty() {
            return Ok(logits.clone());
        }
        let mut processed = logits.clone();
        for processor in self.processors.iter() {
            processed = processor.process(&self.history, &processed)?;
        }
        let infinity = scalar_like(f64::INFINITY, logits)?;
        let raised = processed.ge(&infinity)?.logical_and(logits.lt(&infinity)?)?;
        Ok(ops::select(raised, scalar_like(largest(logits.dtype()), logits)?, processed)?)
    }

    /// Whether the most likely token is all that is wanted.
    fn is_plain(&self) -> bool {
        self.sampler.is_greedy() && self.processors.is_empty()
    }

    /// What has to be computed beside the choice, or its graph would grow from step to step.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        (!self.processors.is_empty()).then_some(&self.history).into_iter()
    }
}

impl Choice {
    /// What has to be computed.
    pub(crate) fn arrays(&self) -> [&Array; 3] {
        [&self.token, &self.logprobs, &self.total]
    }

    /// The token's id, once it is computed; `n` tokens were generated before it.
    ///
    /// Nothing is put into the graph for it: that would have to wait for the step that is in flight by now.
    pub(crate) fn id(&self, n: usize) -> Result<u32> {
        let unreadable = |error: &dyn std::fmt::Display| Exception::custom(error.to_string());
        let total = self.total.try_item_exact::<f32>().map_err(|error| unreadable(&error))?;
        if !total.is_finite() {
            return Err(Error::NotNumbers { n });
        }
        Ok(self.token.try_item_exact::<u32>().map_err(|error| unreadable(&error))?)
    }

    /// The token, once it is computed.
    pub(crate) fn read(&self, n: usize, from_draft: bool) -> Result<Token> {
        Ok(Token { id: self.id(n)?, logprobs: self.logprobs.reshape(&[-1])?, from_draft, finish: None })
    }
}

/// The next token of each row, all at once where no row wants more than its most likely one.
///
/// # Shapes
/// `logits` `[B, V]`, with a chooser for each row
pub(crate) fn choose_rows(choosers: &mut [&mut Chooser], logits: &Array) -> Result<Vec<Choice>> {
    let row = |array: &Array, i: usize| array.try_index((i as i32..i as i32 + 1, ..));
    if choosers.iter().all(|chooser| chooser.is_plain()) {
        let total = fast::logsumexp(logits)?;
        let logprobs = logits.subtract(&total)?;
        let (tokens, total) = (greedy(&logprobs)?, total.as_dtype(Dtype::Float32)?);
        let choice = |i: usize| {
            let token = tokens.try_index(i as i32..i as i32 + 1)?;
            Ok(Choice { token, logprobs: row(&logprobs, i)?, total: row(&total, i)? })
        };
        (0..choosers.len()).map(choice).collect()
    } else {
        choosers.iter_mut().enumerate().map(|(i, chooser)| chooser.choose(&row(logits, i)?)).collect()
    }
}
