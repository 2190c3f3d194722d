//! The repetition penalty of CTRL (arXiv:1909.05858): repeated tokens get less likely by a factor.
//!
//! Unusual: it looks at the sign, so that a factor above 1 always makes a token less likely; a token that occurs
//! several times is penalised once.

use mlxlm_core::{Array, ops};

use super::{LogitsProcessor, finite, recent};
use crate::scalar::{finite_like, scalar_like};
use crate::{Error, Result};

/// Divides the positive and multiplies the negative logits of recent tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepetitionPenalty {
    penalty: f64,
    context_size: usize,
}

impl RepetitionPenalty {
    /// Accepts positive factors; 1 changes nothing.
    pub fn new(penalty: f64, context_size: usize) -> Result<Self> {
        let penalty = finite("repetition_penalty", penalty)?;
        if penalty <= 0.0 {
            return Err(Error::parameter("repetition_penalty", penalty, "a positive number, or 0 for none"));
        }
        Ok(Self { penalty, context_size })
    }
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&self, history: &Array, logits: &Array) -> Result<Array> {
        let Some(tokens) = recent(history, self.context_size)? else {
            return Ok(logits.clone());
        };
        let penalty = finite_like(self.penalty, logits)?;
        let chosen = logits.take_along_axis(&tokens, -1)?;
        let negative = chosen.lt(scalar_like(0.0, logits)?)?;
        let chosen = ops::select(negative, chosen.multiply(&penalty)?, chosen.divide(&penalty)?)?;
        Ok(logits.put_along_axis(tokens, chosen, -1)?)
    }
}
