//! Min-p sampling (arXiv:2407.01082; `apply_min_p` of `mlx_lm/sample_utils.py`).
//!
//! Unusual: `min_tokens_to_keep` of the most likely tokens stay whatever their probability; of those that tie, the first.

use mlxlm_core::{Array, fast};

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
        Ok(fast::min_p(logprobs, self.min_p, self.min_tokens_to_keep as usize)?)
    }
}
