//! Min-p sampling (arXiv:2407.01082; `apply_min_p` of `mlx_lm/sample_utils.py`).
//!
//! Unusual: `min_tokens_to_keep` of the most likely tokens stay whatever their probability.

use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, array};

use crate::scalar::{never, scalar_like, vocab_size};
use crate::{Error, Result};

/// Keeps the tokens that are at least a given fraction as likely as the most likely one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinP {
    min_p: f64,
    min_tokens_to_keep: i32,
}

impl MinP {
    /// Accepts a fraction in `[0, 1]` and a positive number of tokens.
    pub fn new(min_p: f64, min_tokens_to_keep: usize) -> Result<Self> {
        if !(0.0..=1.0).contains(&min_p) {
            return Err(Error::parameter("min_p", min_p, "a number in [0, 1]"));
        }
        match i32::try_from(min_tokens_to_keep) {
            Ok(min_tokens_to_keep @ 1..) => Ok(Self { min_p, min_tokens_to_keep }),
            _ => Err(Error::parameter("min_tokens_to_keep", min_tokens_to_keep, "a positive 32-bit integer")),
        }
    }

    /// False at 0, where nothing is filtered.
    pub fn is_active(self) -> bool {
        self.min_p > 0.0
    }

    /// Sets what is not kept to minus infinity.
    ///
    /// # Shapes
    /// `logprobs` `[B, V]`, and the same shape comes back.
    pub fn apply(self, logprobs: &Array) -> Result<Array> {
        if self.min_tokens_to_keep >= vocab_size(logprobs) {
            return Ok(logprobs.clone());
        }
        let threshold = logprobs.max_axis(-1, true)?.add(scalar_like(self.min_p.ln(), logprobs)?)?;
        let mut removed = logprobs.lt(threshold)?;
        if self.min_tokens_to_keep > 1 {
            let keep = self.min_tokens_to_keep;
            let best = ops::argpartition_axis(logprobs, -keep, -1)?.try_index((.., -keep..))?;
            removed = removed.put_along_axis(best, array!(false), -1)?;
        }
        Ok(ops::select(removed, never(logprobs)?, logprobs)?)
    }
}
