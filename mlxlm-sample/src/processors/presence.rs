//! The presence penalty of OpenAI's API: a constant off the logit of every token that occurred at all.

use mlxlm_core::Array;

use super::{LogitsProcessor, finite, recent};
use crate::Result;
use crate::scalar::finite_like;

/// Subtracts a constant from the logits of recent tokens, once for each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresencePenalty {
    penalty: f64,
    context_size: usize,
}

impl PresencePenalty {
    /// Accepts any finite number; a negative one favours what occurred.
    pub fn new(penalty: f64, context_size: usize) -> Result<Self> {
        Ok(Self { penalty: finite("presence_penalty", penalty)?, context_size })
    }
}

impl LogitsProcessor for PresencePenalty {
    fn process(&self, history: &Array, logits: &Array) -> Result<Array> {
        let Some(tokens) = recent(history, self.context_size)? else {
            return Ok(logits.clone());
        };
        let chosen = logits.take_along_axis(&tokens, -1)?.subtract(finite_like(self.penalty, logits)?)?;
        Ok(logits.put_along_axis(tokens, chosen, -1)?)
    }
}
