//! Nucleus sampling (arXiv:1904.09751; `apply_top_p` of `mlx_lm/sample_utils.py` as of 0.32.2).
//!
//! Unusual: a token goes when the mass *strictly above* it reaches `top_p`, applied as a threshold on the
//! log-probability, so all tokens that tie with the last one kept stay. The mass is summed in f32 and compared with
//! the total, so the input need not be normalised.

use mlxlm_core::ops::{self, indexing::TryIndexOp};
use mlxlm_core::{Array, Dtype};

use crate::scalar::never;
use crate::{Error, Result};

/// Keeps the fewest most likely tokens whose probabilities add up to a share of the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopP(f64);

impl TopP {
    /// Accepts a share in `[0, 1]`.
    pub fn new(top_p: f64) -> Result<Self> {
        if (0.0..=1.0).contains(&top_p) {
            Ok(Self(top_p))
        } else {
            Err(Error::parameter("top_p", top_p, "a number in [0, 1]"))
        }
    }

    /// False at 0 and at 1, which both mean that nothing is filtered.
    pub fn is_active(self) -> bool {
        self.0 > 0.0 && self.0 < 1.0
    }

    /// Sets what is not kept to minus infinity.
    ///
    /// # Shapes
    /// `logprobs` `[B, V]`, and the same shape comes back.
    pub fn apply(self, logprobs: &Array) -> Result<Array> {
        let sorted = ops::sort_axis(logprobs, -1)?;
        let probs = sorted.as_dtype(Dtype::Float32)?.exp()?;
        let mass_above = probs.cumsum(-1, true, false)?;
        let total = mass_above.try_index((.., ..1))?.add(probs.try_index((.., ..1))?)?;
        let enough = total.multiply(Array::from_f32(self.0 as f32))?;
        let dropped = mass_above.ge(enough)?.sum_axis(-1, true)?;
        let threshold = sorted.take_along_axis(dropped, -1)?;
        Ok(ops::select(logprobs.lt(threshold)?, never(logprobs)?, logprobs)?)
    }
}
