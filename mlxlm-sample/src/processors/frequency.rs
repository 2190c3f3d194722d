//! The frequency penalty of OpenAI's API: a constant off the logit of a token for every time that it occurred.

use mlxlm_core::{Array, ops, ops::indexing::scatter_add_single};

use super::{LogitsProcessor, finite, recent};
use crate::Result;
use crate::scalar::finite_like;

/// Subtracts a constant from the logits of recent tokens, once for each occurrence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrequencyPenalty {
    penalty: f64,
    context_size: usize,
}

impl FrequencyPenalty {
    /// Accepts any finite number; a negative one favours what occurred.
    pub fn new(penalty: f64, context_size: usize) -> Result<Self> {
        Ok(Self { penalty: finite("frequency_penalty", penalty)?, context_size })
    }
}

impl LogitsProcessor for FrequencyPenalty {
    fn process(&self, history: &Array, logits: &Array) -> Result<Array> {
        let Some(tokens) = recent(history, self.context_size)? else {
            return Ok(logits.clone());
        };
        let count = tokens.size() as i32;
        let updates = ops::broadcast_to(finite_like(-self.penalty, logits)?, &[count, 1, 1])?;
        Ok(scatter_add_single(logits, tokens.reshape(&[-1])?, updates, 1)?)
    }
}
