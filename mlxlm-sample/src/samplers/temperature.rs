//! Temperature and the draw itself (`categorical_sampling` of `mlx_lm/sample_utils.py`).
//!
//! Unusual: the temperature comes after all filters, which therefore see the model's own distribution.

use mlxlm_core::{Array, fast};

use crate::{Error, Result};

/// A draw from the softmax of `logprobs / temperature`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature(f64);

impl Temperature {
    /// Accepts any positive, finite temperature: 0 is greedy decoding and no draw.
    pub fn new(temp: f64) -> Result<Self> {
        if temp.is_finite() && temp > 0.0 {
            Ok(Self(temp))
        } else {
            Err(Error::parameter("temp", temp, "a finite number that is not negative"))
        }
    }

    /// Draws one token for each row with the noise of `key`.
    ///
    /// # Shapes
    /// `logprobs` `[B, V]` → `[B]`, u32.
    pub fn draw(self, logprobs: &Array, key: &Array) -> Result<Array> {
        Ok(fast::categorical(logprobs, (1.0 / self.0) as f32, key)?)
    }
}
