//! Logit bias: a number added to the logits of chosen tokens, of OpenAI's API.

use std::collections::BTreeMap;

use mlxlm_core::{Array, ops::indexing::scatter_add_single};

use super::LogitsProcessor;
use crate::scalar::{largest, vocab_size};
use crate::{Error, Result};

/// Adds a number of its own to the logit of each of some tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitBias {
    ids: Vec<u32>,
    values: Vec<f32>,
}

impl LogitBias {
    /// Accepts finite numbers, and minus infinity, which forbids a token.
    pub fn new(bias: &BTreeMap<u32, f64>) -> Result<Self> {
        match bias.values().find(|value| value.is_nan() || **value == f64::INFINITY) {
            Some(value) => Err(Error::parameter("logit_bias", value, "numbers below infinity")),
            None => Ok(Self {
                ids: bias.keys().copied().collect(),
                values: bias.values().map(|&value| in_f32(value)).collect(),
            }),
        }
    }
}

/// The nearest number of f32; only minus infinity is infinite.
fn in_f32(value: f64) -> f32 {
    let most = f64::from(f32::MAX);
    if value.is_finite() { value.clamp(-most, most) as f32 } else { value as f32 }
}

impl LogitsProcessor for LogitBias {
    fn process(&self, _history: &Array, logits: &Array) -> Result<Array> {
        self.check_vocabulary(vocab_size(logits))?;
        let count = self.ids.len() as i32;
        let ids = Array::from_slice(&self.ids, &[count]);
        // What is beyond the type is its largest number; minus infinity stays.
        let most = largest(logits.dtype()) as f32;
        let within = |value: &f32| if value.is_finite() { value.clamp(-most, most) } else { *value };
        let values: Vec<f32> = self.values.iter().map(within).collect();
        let values = Array::from_slice(&values, &[count, 1, 1]).as_dtype(logits.dtype())?;
        Ok(scatter_add_single(logits, ids, values, 1)?)
    }

    fn check_vocabulary(&self, vocab_size: i32) -> Result<()> {
        match self.ids.last() {
            Some(&id) if i64::from(id) >= i64::from(vocab_size) => {
                Err(Error::TokenOutOfRange { name: "logit_bias", id, vocab_size })
            }
            _ => Ok(()),
        }
    }
}
