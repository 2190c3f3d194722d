//! Nucleus sampling (arXiv:1904.09751; `apply_top_p` of `mlx_lm/sample_utils.py` as of 0.32.2).
//!
//! Unusual: a token goes when the mass *strictly above* it reaches `top_p`, applied as a threshold on the
//! log-probability, so all tokens that tie with the last one kept stay. The mass is compared with the total, so the input
//! need not be normalised.

use mlxlm_core::{Array, fast};

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
        Ok(fast::top_p(logprobs, self.0)?)
    }
}
