//! The entries of `config.json` that say how positions are rotated, read once from every place where files put them.
//!
//! Files of transformers 4 have `rope_theta` and `partial_rotary_factor` beside `rope_scaling`, whose kind is `type` or
//! `rope_type`; those of transformers 5 have all of it in `rope_parameters`, which may hold one such object for each type of
//! layer. What is nested beats what is flat, and what a file says beats an architecture's default.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ModelConfig, positive};
use crate::{Error, Result};

/// One object `rope_scaling` or `rope_parameters`, or what both and the flat entries come to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(crate) struct RopeEntries {
    /// The kind of stretching.
    #[serde(alias = "type")]
    pub(crate) rope_type: Option<String>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) partial_rotary_factor: Option<f64>,
    pub(crate) factor: Option<f64>,
    pub(crate) original_max_position_embeddings: Option<f64>,
    pub(crate) low_freq_factor: Option<f64>,
    pub(crate) high_freq_factor: Option<f64>,
    pub(crate) beta_fast: Option<f64>,
    pub(crate) beta_slow: Option<f64>,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
    pub(crate) attention_factor: Option<f64>,
    pub(crate) truncate: Option<bool>,
    pub(crate) long_factor: Option<Factors>,
    pub(crate) short_factor: Option<Factors>,
    pub(crate) long_mscale: Option<f64>,
    pub(crate) short_mscale: Option<f64>,
    pub(crate) mrope_section: Option<Vec<i32>>,
    /// Hunyuan's factor of the base.
    pub(crate) alpha: Option<f64>,
    /// How much queries grow with their position (Llama 4, Ministral 3).
    pub(crate) llama_4_scaling_beta: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

/// A factor for each pair, or one for all.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Factors {
    One(f64),
    Each(Vec<f64>),
}

/// Entries that only say how images are recognized, or what a file was made with.
const WITHOUT_EFFECT: &[&str] =
    &["finetuned", "interleaved", "max_position_embeddings", "mrope_interleaved", "rope_type", "type"];

impl RopeEntries {
    fn read(place: &str, value: &Value) -> Result<Self> {
        let Value::Object(entries) = value else {
            return Err(Error::config(format!("`{place}` is not an object")));
        };
        // Both spellings of the kind may be there, as some tools write them for old and new readers.
        let mut present: Map<String, Value> =
            entries.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        if present.contains_key("rope_type") {
            present.remove("type");
        }
        let read: Self = serde_path_to_error::deserialize(Value::Object(present))
            .map_err(|e| Error::config(format!("`{place}.{}`: {}", e.path(), e.inner())))?;
        Ok(read)
    }

    /// These entries, and those of `other` where there are none.
    fn or(self, other: &Self) -> Self {
        let other = other.clone();
        let mut extra = other.extra;
        extra.extend(self.extra);
        Self {
            rope_type: self.rope_type.or(other.rope_type),
            rope_theta: self.rope_theta.or(other.rope_theta),
            partial_rotary_factor: self.partial_rotary_factor.or(other.partial_rotary_factor),
            factor: self.factor.or(other.factor),
            original_max_position_embeddings: self
                .original_max_position_embeddings
                .or(other.original_max_position_embeddings),
            low_freq_factor: self.low_freq_factor.or(other.low_freq_factor),
            high_freq_factor: self.high_freq_factor.or(other.high_freq_factor),
            beta_fast: self.beta_fast.or(other.beta_fast),
            beta_slow: self.beta_slow.or(other.beta_slow),
            mscale: self.mscale.or(other.mscale),
            mscale_all_dim: self.mscale_all_dim.or(other.mscale_all_dim),
            attention_factor: self.attention_factor.or(other.attention_factor),
            truncate: self.truncate.or(other.truncate),
            long_factor: self.long_factor.or(other.long_factor),
            short_factor: self.short_factor.or(other.short_factor),
            long_mscale: self.long_mscale.or(other.long_mscale),
            short_mscale: self.short_mscale.or(other.short_mscale),
            mrope_section: self.mrope_section.or(other.mrope_section),
            alpha: self.alpha.or(other.alpha),
            llama_4_scaling_beta: self.llama_4_scaling_beta.or(other.llama_4_scaling_beta),
            extra,
        }
    }

    /// The kind of stretching, `default` if none is named.
    pub(crate) fn kind(&self) -> &str {
        self.rope_type.as_deref().unwrap_or("default")
    }
}

/// How positions are rotated, of a whole model or of the layers of one type.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    pub(crate) entries: RopeEntries,
    /// Neighbouring pairs are rotated, and not the two halves.
    pub(crate) traditional: bool,
    /// The longest sequence of the training.
    pub(crate) max_positions: Option<i32>,
    by_type: BTreeMap<String, RopeEntries>,
}

impl RopeConfig {
    /// What `file` says, and `defaults` where it says nothing.
    pub(super) fn read(file: &ModelConfig, defaults: &ModelConfig) -> Result<Self> {
        let (own, by_type) = Self::entries_of(file)?;
        let (usual, usual_by_type) = Self::entries_of(defaults)?;
        // What an architecture has for types of layers stands for a file that says nothing at all.
        let by_type = match by_type.is_empty() && own == RopeEntries::default() {
            true => usual_by_type,
            false => by_type,
        };
        let own = own.or(&usual);
        if let Some(theta) = own.rope_theta {
            positive("rope_theta", theta as f32)?;
        }
        let by_type: BTreeMap<String, RopeEntries> =
            by_type.into_iter().map(|(name, entries)| (name, entries.or(&own))).collect();
        for (name, entries) in &by_type {
            positive(&format!("rope_parameters.{name}.rope_theta"), entries.rope_theta.unwrap_or(1e4) as f32)?;
        }
        let of = |key: &str| file.get(key).or_else(|| defaults.get(key));
        let max_positions = match of("max_position_embeddings") {
            None => None,
            Some(value) => {
                Some(value.as_i64().and_then(|n| i32::try_from(n).ok()).filter(|&n| n > 0).ok_or_else(|| {
                    Error::config(format!("`max_position_embeddings` is {value}, expected 1 to {}", i32::MAX))
                })?)
            }
        };
        let traditional = match of("rope_traditional") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| Error::config(format!("`rope_traditional` is {value}, expected true or false")))?,
        };
        Ok(Self { entries: own, traditional, max_positions, by_type })
    }

    /// What a configuration has for the whole model, and for each type of layer.
    fn entries_of(config: &ModelConfig) -> Result<(RopeEntries, BTreeMap<String, RopeEntries>)> {
        let number = |key: &str| match config.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                // One for each layer or type of layer: the architecture reads it itself.
                None if value.is_array() || value.is_object() => Ok(None),
                None => Err(Error::config(format!("`{key}` is {value}, not a number"))),
            },
        };
        let flat = RopeEntries {
            rope_theta: number("rope_theta")?,
            partial_rotary_factor: number("partial_rotary_factor")?,
            original_max_position_embeddings: number("original_max_position_embeddings")?,
            ..RopeEntries::default()
        };
        let mut whole = RopeEntries::default();
        let mut by_type = BTreeMap::new();
        for place in ["rope_parameters", "rope_scaling"] {
            let Some(value) = config.get(place) else { continue };
            let nested = value.as_object().filter(|entries| {
                !entries.is_empty() && entries.values().all(|entry| entry.is_object() || entry.is_null())
            });
            match nested {
                None => whole = whole.or(&RopeEntries::read(place, value)?),
                Some(types) => {
                    for (name, entries) in types.iter().filter(|(_, entries)| !entries.is_null()) {
                        by_type.insert(name.clone(), RopeEntries::read(&format!("{place}.{name}"), entries)?);
                    }
                }
            }
        }
        Ok((whole.or(&flat), by_type))
    }

    /// What layers of this type have: their own object of `rope_parameters`, or what the whole model has.
    #[must_use]
    pub fn of_type(&self, layer_type: &str) -> Self {
        let entries = self.by_type.get(layer_type).unwrap_or(&self.entries).clone();
        Self { entries, by_type: BTreeMap::new(), ..self.clone() }
    }

    /// Whether there is an object for each type of layer.
    pub fn has_types(&self) -> bool {
        !self.by_type.is_empty()
    }

    /// The same with another base.
    #[must_use]
    pub fn with_theta(mut self, theta: f32) -> Self {
        self.entries.rope_theta = Some(theta.into());
        self
    }

    /// The same with neighbouring pairs rotated.
    #[must_use]
    pub fn traditional(self) -> Self {
        Self { traditional: true, ..self }
    }

    /// The same without any stretching.
    #[must_use]
    pub fn unscaled(mut self) -> Self {
        self.entries.rope_type = None;
        self
    }

    /// The base of the rotary frequencies.
    pub fn theta(&self) -> f32 {
        self.entries.rope_theta.unwrap_or(10_000.0) as f32
    }

    /// The share of each head that is rotated, if the configuration or the architecture says so.
    pub fn partial(&self) -> Option<f64> {
        self.entries.partial_rotary_factor
    }

    /// Whether the frequencies are stretched at all.
    pub fn is_scaled(&self) -> bool {
        self.entries.kind() != "default"
    }

    /// How much queries grow with their position, and the length from which on (Llama 4, Ministral 3).
    pub fn query_growth(&self) -> (Option<f64>, Option<f64>) {
        (self.entries.llama_4_scaling_beta, self.entries.original_max_position_embeddings)
    }

    /// `0.1 · mscale_all_dim · ln(factor) + 1`: what latent attention multiplies its scale with, twice.
    pub fn yarn_mscale_all_dim(&self) -> f32 {
        match (self.entries.mscale_all_dim, self.entries.factor) {
            (Some(mscale), Some(factor)) if mscale != 0.0 && factor > 1.0 => (0.1 * mscale * factor.ln() + 1.0) as f32,
            _ => 1.0,
        }
    }

    /// The longest sequence that the model can read: that of the training, or what the frequencies are stretched to.
    pub(super) fn context_length(&self) -> Option<i32> {
        let trained = self.max_positions?;
        let stretched = |entries: &RopeEntries| {
            let original = entries.original_max_position_embeddings.unwrap_or(f64::from(trained));
            // A float beyond the range ends at its edge.
            (original * entries.factor.unwrap_or(1.0)) as i32
        };
        let all = std::iter::once(&self.entries).chain(self.by_type.values());
        Some(all.map(stretched).fold(trained, i32::max))
    }

    /// Entries inside the objects that nothing reads.
    pub(super) fn unread(&self) -> impl Iterator<Item = String> {
        let all = std::iter::once(&self.entries).chain(self.by_type.values());
        all.flat_map(|entries| entries.extra.iter())
            .filter(|(key, value)| !WITHOUT_EFFECT.contains(&key.as_str()) && **value != Value::Bool(false))
            .map(|(key, _)| format!("rope_parameters.{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(file: Value, defaults: Value) -> Result<RopeConfig> {
        RopeConfig::read(&ModelConfig::new(file).unwrap(), &ModelConfig::new(defaults).unwrap())
    }

    #[test]
    fn nested_entries_beat_flat_ones_and_both_beat_defaults() {
        let defaults = json!({"rope_theta": 1e6});
        let theta = |file: Value| read(file, defaults.clone()).unwrap().theta();
        assert_eq!(theta(json!({})), 1e6);
        assert_eq!(theta(json!({"rope_theta": 2e4})), 2e4);
        assert_eq!(theta(json!({"rope_theta": null, "rope_parameters": {"rope_theta": 3e4}})), 3e4);
        assert_eq!(theta(json!({"rope_theta": 2e4, "rope_parameters": {"rope_theta": 3e4}})), 3e4);
        assert_eq!(theta(json!({"rope_theta": 2e4, "rope_scaling": {"type": "default", "rope_theta": 3e4}})), 3e4);
    }

    #[test]
    fn types_of_layers_have_their_own_entries() {
        let file = json!({"rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }});
        let rope = read(file, json!({})).unwrap();
        let full = rope.of_type("full_attention");
        assert_eq!((full.theta(), full.is_scaled()), (1e6, true));
        let sliding = rope.of_type("sliding_attention");
        assert_eq!((sliding.theta(), sliding.is_scaled()), (1e4, false));
        assert_eq!(rope.of_type("chunked_attention").theta(), 1e4);
    }

    #[test]
    fn types_of_layers_may_be_the_architectures() {
        let defaults = json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}});
        assert_eq!(read(json!({}), defaults.clone()).unwrap().of_type("full_attention").theta(), 1e6);
        assert!(!read(json!({"rope_theta": 5e4}), defaults).unwrap().has_types());
    }

    #[test]
    fn what_nobody_reads_is_reported() {
        let file = json!({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0, "wobble": 3}});
        assert_eq!(read(file, json!({})).unwrap().unread().collect::<Vec<_>>(), ["rope_parameters.wobble"]);
    }

    #[test]
    fn nonsense_is_named() {
        let error = |file: Value| read(file, json!({})).unwrap_err().to_string();
        assert_eq!(error(json!({"rope_scaling": 8})), "config.json: `rope_scaling` is not an object");
        assert!(error(json!({"rope_scaling": {"factor": "x"}})).starts_with("config.json: `rope_scaling.factor`"));
        assert_eq!(error(json!({"rope_theta": -1})), "config.json: `rope_theta` is -1, expected a positive number");
    }

    #[test]
    fn stretched_frequencies_lengthen_the_context() {
        let context = |scaling: Value| {
            let file = json!({"max_position_embeddings": 4096, "rope_scaling": scaling});
            read(file, json!({})).unwrap().context_length()
        };
        assert_eq!(context(Value::Null), Some(4096));
        assert_eq!(context(json!({"type": "linear", "factor": 2.0})), Some(8192));
        let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048});
        assert_eq!(context(yarn), Some(8192));
        // Llama 3.1 gives the stretched length itself.
        let llama = json!({"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512});
        assert_eq!(context(llama), Some(4096));
    }
}
