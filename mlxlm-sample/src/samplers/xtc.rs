//! Exclude top choices (`apply_xtc` of `mlx_lm/sample_utils.py`): now and then, drop all likely tokens but the least likely.
//!
//! Unusual: one uniform number a call decides for all rows together, and it is drawn even where nothing is dropped.

use mlxlm_core::{Array, array, fast, ops, random};

use crate::scalar::{never, scalar_like, vocab_size};
use crate::{Error, Result};

/// With some probability, removes every token above a threshold except the least likely of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Xtc {
    probability: f64,
    threshold: f64,
    special_tokens: Vec<u32>,
}

impl Xtc {
    /// Accepts a probability in `[0, 1]` and a threshold in `[0, 0.5]`; `special_tokens` are never removed.
    pub fn new(probability: f64, threshold: f64, special_tokens: &[u32]) -> Result<Self> {
        if !(0.0..=1.0).contains(&probability) {
            return Err(Error::parameter("xtc_probability", probability, "a number in [0, 1]"));
        }
        if !(0.0..=0.5).contains(&threshold) {
            return Err(Error::parameter("xtc_threshold", threshold, "a number in [0, 0.5]"));
        }
        Ok(Self { probability, threshold, special_tokens: special_tokens.to_vec() })
    }

    /// False at probability 0, where nothing is ever removed.
    pub fn is_active(&self) -> bool {
        self.probability > 0.0
    }

    /// Refuses special tokens that the model does not have.
    pub fn check_vocabulary(&self, vocab_size: i32) -> Result<()> {
        match self.special_tokens.iter().find(|&&id| i64::from(id) >= i64::from(vocab_size)) {
            Some(&id) => Err(Error::TokenOutOfRange { name: "xtc_special_tokens", id, vocab_size }),
            None => Ok(()),
        }
    }

    /// Sets what is removed, if anything is this time, to minus infinity. `key` decides.
    ///
    /// # Shapes
    /// `logprobs` `[B, V]`, and the same shape comes back.
    pub fn apply(&self, logprobs: &Array, key: &Array) -> Result<Array> {
        self.check_vocabulary(vocab_size(logprobs))?;
        let probs = fast::softmax(logprobs, -1)?;
        let likely = probs.gt(scalar_like(self.threshold, &probs)?)?;
        let infinity = scalar_like(f64::INFINITY, &probs)?;
        let least_likely = ops::select(likely, &probs, infinity)?.min_axis(-1, true)?;
        let mut removed = probs.gt(least_likely)?;
        if !self.special_tokens.is_empty() {
            let count = self.special_tokens.len() as i32;
            let rows = logprobs.size() as i32 / vocab_size(logprobs);
            let ids = Array::from_slice(&self.special_tokens, &[1, count]);
            removed = removed.put_along_axis(ops::broadcast_to(ids, &[rows, count])?, array!(false), -1)?;
        }
        let spared = random::uniform::<f32, f32>(0.0, 1.0, None, key)?.gt(Array::from_f32(self.probability as f32))?;
        let excluded = ops::select(removed, never(logprobs)?, logprobs)?;
        Ok(ops::select(spared, logprobs, excluded)?)
    }
}
