//! The entries of `config.json` that nearly every architecture has.

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result};

/// What most architectures share; the names are those of `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Common {
    /// The architecture.
    pub model_type: String,
    /// `D`, the width of a token's state.
    pub hidden_size: i32,
    /// Blocks.
    pub num_hidden_layers: i32,
    /// The width inside a block's MLP.
    pub intermediate_size: i32,
    /// `H`, query heads.
    pub num_attention_heads: i32,
    /// `K`, heads of keys and values; as many as query heads if absent.
    num_key_value_heads: Option<i32>,
    /// `d`; the hidden size divided by the heads if absent.
    head_dim: Option<i32>,
    /// `V`, rows of the embedding table.
    pub vocab_size: i32,
    /// Added to the mean square in norms.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f32,
    /// The longest sequence of the training.
    pub max_position_embeddings: Option<i32>,
    /// Base of the rotary frequencies.
    pub rope_theta: Option<f32>,
    /// Neighbouring pairs are rotated, and not the two halves.
    #[serde(default)]
    pub rope_traditional: bool,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: Option<Value>,
    /// As `rope_scaling`, with `rope_theta` inside: the spelling of transformers 5.
    pub rope_parameters: Option<Value>,
    /// Whether the embedding table is the head too.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn default_eps() -> f32 {
    1e-6
}

/// No model comes near these; a configuration beyond them is damaged or hostile.
const MAX_LAYERS: i32 = 10_000;
pub(crate) const MAX_WIDTH: i32 = 1 << 24;

impl Common {
    /// `K`.
    pub fn kv_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// `d`.
    pub fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// The base of the rotary frequencies.
    pub fn rope_theta(&self) -> f32 {
        let nested = || self.rope_parameters.as_ref()?.get("rope_theta")?.as_f64();
        self.rope_theta.or_else(|| nested().map(|theta| theta as f32)).unwrap_or(10_000.0)
    }

    /// The longest sequence that the model can read, if the configuration says so: that of the training, or what the
    /// rotary frequencies are stretched to.
    pub fn context_length(&self) -> Option<i32> {
        let trained = self.max_position_embeddings?;
        let scaling = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let number = |key: &str| scaling.and_then(|scaling| scaling.get(key)).and_then(Value::as_f64);
        let original = number("original_max_position_embeddings").unwrap_or(f64::from(trained));
        let stretched = original * number("factor").unwrap_or(1.0);
        // A float beyond the range ends at its edge.
        Some(trained.max(stretched as i32))
    }

    /// Refuses numbers from which no model can be built, before anything loops over them.
    pub(crate) fn check(&self) -> Result<()> {
        within("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        within("hidden_size", self.hidden_size, MAX_WIDTH)?;
        within("intermediate_size", self.intermediate_size, MAX_WIDTH)?;
        within("vocab_size", self.vocab_size, MAX_WIDTH)?;
        within("num_attention_heads", self.num_attention_heads, MAX_WIDTH)?;
        within("num_key_value_heads", self.kv_heads(), self.num_attention_heads)?;
        within("head_dim", self.head_dim(), MAX_WIDTH)?;
        if self.head_dim() % 2 != 0 {
            return Err(Error::config(format!("`head_dim` is {}, expected an even number", self.head_dim())));
        }
        if self.num_attention_heads % self.kv_heads() != 0 {
            return Err(Error::config(format!(
                "`num_attention_heads` {} is not a multiple of `num_key_value_heads` {}",
                self.num_attention_heads,
                self.kv_heads()
            )));
        }
        if self.head_dim.is_none() && self.hidden_size % self.num_attention_heads != 0 {
            return Err(Error::config(format!(
                "`hidden_size` {} is not a multiple of `num_attention_heads` {}",
                self.hidden_size, self.num_attention_heads
            )));
        }
        let wide = i64::from(self.num_attention_heads) * i64::from(self.head_dim());
        if wide > i64::from(MAX_WIDTH) {
            return Err(Error::config(format!("{} heads of {} are absurd", self.num_attention_heads, self.head_dim())));
        }
        if !self.rms_norm_eps.is_finite() || self.rms_norm_eps < 0.0 {
            return Err(Error::config(format!(
                "`rms_norm_eps` is {}, expected zero or a small number",
                self.rms_norm_eps
            )));
        }
        positive("rope_theta", self.rope_theta())
    }
}

/// Refuses the entry `name` unless it is from 1 to `most`.
pub(crate) fn within(name: &str, value: i32, most: i32) -> Result<()> {
    match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(Error::config(format!("`{name}` is {value}, expected 1 to {most}"))),
    }
}

/// Refuses the entry `name` unless it is a finite number above zero.
pub(crate) fn positive(name: &str, value: f32) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(Error::config(format!("`{name}` is {value}, expected a positive number"))),
    }
}

/// Refuses the entry `name` if it asks for what the architecture does not have here.
pub(crate) fn unsupported(c: &Common, name: &str, is_asked_for: bool) -> Result<()> {
    match is_asked_for {
        true => Err(Error::config(format!("`{name}` is set, which is not supported for `{}`", c.model_type))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn context(scaling: Value) -> Option<i32> {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8,
            "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 4096, "rope_scaling": scaling,
        });
        serde_json::from_value::<Common>(config).unwrap().context_length()
    }

    #[test]
    fn stretched_frequencies_lengthen_the_context() {
        assert_eq!(context(Value::Null), Some(4096));
        assert_eq!(context(json!({"type": "linear", "factor": 2.0})), Some(8192));
        assert_eq!(
            context(json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048})),
            Some(8192)
        );
        // Llama 3.1 gives the stretched length itself.
        assert_eq!(
            context(json!({"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512})),
            Some(4096)
        );
    }
}
