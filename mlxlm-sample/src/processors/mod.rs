//! Logits processors: what changes the logits before they become probabilities (`make_logits_processors` of
//! `mlx_lm/sample_utils.py`).
//!
//! One file per processor. [`logits_processors`] builds them in the order of the reference: logit bias, repetition,
//! presence, frequency. Each is left out where it is not given or 0.
//!
//! Unusual: a context size of 0 means the whole history.

mod frequency;
mod logit_bias;
mod presence;
mod repetition;

use std::collections::BTreeMap;
use std::fmt::Debug;

use mlxlm_core::{Array, ops::indexing::TryIndexOp};

pub use frequency::FrequencyPenalty;
pub use logit_bias::LogitBias;
pub use presence::PresencePenalty;
pub use repetition::RepetitionPenalty;

use crate::{Error, Result};

/// Changes the logits of the next token, knowing the tokens so far.
pub trait LogitsProcessor: Debug {
    /// The new logits.
    ///
    /// # Shapes
    /// `history` `[N]`, u32: the prompt and what was generated, the token just chosen included; N may be 0.
    /// `logits` `[1, V]`, and the same shape and type come back.
    fn process(&self, history: &Array, logits: &Array) -> Result<Array>;

    /// Refuses parameters that do not fit a vocabulary, so that a generation can fail before it starts.
    fn check_vocabulary(&self, _vocab_size: i32) -> Result<()> {
        Ok(())
    }
}

/// The parameters of the processors; the default is none of them.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessorOptions {
    /// What is added to the logits of some tokens.
    pub logit_bias: BTreeMap<u32, f64>,
    /// [`RepetitionPenalty`]; 0 switches it off.
    pub repetition_penalty: Option<f64>,
    /// How many of the last tokens the repetition penalty looks at; 0 is all.
    pub repetition_context_size: usize,
    /// [`PresencePenalty`]; 0 switches it off.
    pub presence_penalty: Option<f64>,
    /// How many of the last tokens the presence penalty looks at; 0 is all.
    pub presence_context_size: usize,
    /// [`FrequencyPenalty`]; 0 switches it off.
    pub frequency_penalty: Option<f64>,
    /// How many of the last tokens the frequency penalty looks at; 0 is all.
    pub frequency_context_size: usize,
}

impl Default for ProcessorOptions {
    fn default() -> Self {
        Self {
            logit_bias: BTreeMap::new(),
            repetition_penalty: None,
            repetition_context_size: 20,
            presence_penalty: None,
            presence_context_size: 20,
            frequency_penalty: None,
            frequency_context_size: 20,
        }
    }
}

/// Builds the processors that `options` ask for.
pub fn logits_processors(options: &ProcessorOptions) -> Result<Vec<Box<dyn LogitsProcessor>>> {
    let active = |penalty: Option<f64>| penalty.filter(|&penalty| penalty != 0.0);
    let mut processors: Vec<Box<dyn LogitsProcessor>> = Vec::new();
    if !options.logit_bias.is_empty() {
        processors.push(Box::new(LogitBias::new(&options.logit_bias)?));
    }
    if let Some(penalty) = active(options.repetition_penalty) {
        processors.push(Box::new(RepetitionPenalty::new(penalty, options.repetition_context_size)?));
    }
    if let Some(penalty) = active(options.presence_penalty) {
        processors.push(Box::new(PresencePenalty::new(penalty, options.presence_context_size)?));
    }
    if let Some(penalty) = active(options.frequency_penalty) {
        processors.push(Box::new(FrequencyPenalty::new(penalty, options.frequency_context_size)?));
    }
    Ok(processors)
}

/// The last `context_size` tokens of `history` as row of indices `[1, n]`, or `None` where there are none.
fn recent(history: &Array, context_size: usize) -> Result<Option<Array>> {
    let length = history.size();
    if length == 0 {
        return Ok(None);
    }
    let start = if context_size == 0 { 0 } else { length.saturating_sub(context_size) };
    Ok(Some(history.try_index(start as i32..)?.reshape(&[1, -1])?))
}

/// Refuses penalties that are no numbers.
fn finite(name: &'static str, penalty: f64) -> Result<f64> {
    if penalty.is_finite() { Ok(penalty) } else { Err(Error::parameter(name, penalty, "a finite number")) }
}

#[cfg(test)]
mod tests;
