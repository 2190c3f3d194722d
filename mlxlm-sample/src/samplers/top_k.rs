//! Top-k sampling (`apply_top_k` of `mlx_lm/sample_utils.py`).
//!
//! Unusual: it comes after the other filters, and of several tokens that tie at the border the first stay.

use mlxlm_core::{Array, fast};

use crate::scalar::vocab_size;
use crate::{Error, Result};

/// Keeps a fixed number of the most likely tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopK(usize);

impl TopK {
    /// Any number is accepted here; [`TopK::check_vocabulary`] says whether it fits a model.
    pub fn new(top_k: usize) -> Self {
        Self(top_k)
    }

    /// False at 0, where nothing is filtered.
    pub fn is_active(self) -> bool {
        self.0 > 0
    }

    /// Refuses to keep as many tokens as there are, or more.
    pub fn check_vocabulary(self, vocab_size: i32) -> Result<()> {
        self.below(vocab_size).map(drop)
    }

    fn below(self, vocab_size: i32) -> Result<i32> {
        match i32::try_from(self.0) {
            Ok(top_k) if 0 < top_k && top_k < vocab_size => Ok(top_k),
            _ => Err(Error::parameter(
                "top_k",
                self.0,
                format!("an integer between 0 and the {vocab_size} of the vocabulary"),
            )),
        }
    }

    /// Sets what is not kept to minus infinity.
    ///
    /// # Shapes
    /// `logprobs` `[B, V]`, and the same shape comes back.
    pub fn apply(self, logprobs: &Array) -> Result<Array> {
        let top_k = self.below(vocab_size(logprobs))?;
        Ok(fast::top_k(logprobs, top_k as usize)?)
    }
}
