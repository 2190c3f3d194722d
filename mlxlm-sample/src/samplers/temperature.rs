//! Temperature and the draw itself (`categorical_sampling` of `mlx_lm/sample_utils.py`).
//!
//! Unusual: the temperature comes after all filters, which therefore see the model's own distribution. And it works in f32 on the
//! distances to the most likely token, where the reference divides in the type of the weights: in float16 a temperature below
//! 1e-4 makes all tokens equally likely there.

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
        // A factor that is no number of f32, or none at all, would make noise of the distances.
        let scale = ((1.0 / self.0) as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
        Ok(fast::categorical(logprobs, scale, key)?)
    }
}
