//! `config.json`, with what `generation_config.json` adds, checked before anything is built from it.

use std::path::Path;

use mlxlm_core::io;
use mlxlm_core::weights::QuantizationConfig;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// A model's configuration as it lies on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig(Map<String, Value>);

impl ModelConfig {
    /// Reads the configuration of a folder. An `eos_token_id` of `generation_config.json` replaces that of
    /// `config.json`.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(Error::NotAModel { folder: folder.to_owned() });
        }
        let mut config = Self::new(io::read_json(path)?)?;
        let generation = folder.join("generation_config.json");
        if generation.is_file() {
            let generation: Value = io::read_json(generation)?;
            if let Some(eos) = generation.get("eos_token_id").filter(|eos| !eos.is_null()) {
                config.0.insert("eos_token_id".into(), eos.clone());
            }
        }
        Ok(config)
    }

    /// Takes a configuration that is in memory already.
    pub fn new(value: Value) -> Result<Self> {
        match value {
            Value::Object(entries) => Ok(Self(entries)),
            _ => Err(Error::config("it is not an object")),
        }
    }

    /// The entry `key`, if it is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Sets an entry, or removes it with `None`.
    pub fn set(&mut self, key: &str, value: Option<Value>) {
        match value {
            Some(value) => self.0.insert(key.to_owned(), value),
            None => self.0.remove(key),
        };
    }

    /// The whole configuration.
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// Which architecture this is.
    pub fn model_type(&self) -> Result<&str> {
        match self.get("model_type") {
            Some(Value::String(name)) => Ok(name),
            Some(_) => Err(Error::config("`model_type` is not a string")),
            None => Err(Error::config("`model_type` is missing")),
        }
    }

    /// A copy in which `defaults` stand for the entries that are missing.
    pub(crate) fn with_defaults(&self, defaults: Value) -> Self {
        let Value::Object(mut entries) = defaults else { return self.clone() };
        entries.extend(self.0.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())));
        Self(entries)
    }

    /// Reads the entries of `T`, and says which entries it did not look at.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<(T, Vec<String>)> {
        let present: Map<String, Value> =
            self.0.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut ignored = Vec::new();
        let mut note = |path: serde_ignored::Path| ignored.push(path.to_string());
        let entries = serde_ignored::Deserializer::new(Value::Object(present), &mut note);
        let parsed = serde_path_to_error::deserialize(entries).map_err(|e| match e.path().iter().next() {
            Some(_) => Error::config(format!("`{}`: {}", e.path(), e.inner())),
            None => Error::config(e.inner().to_string()),
        })?;
        Ok((parsed, ignored))
    }

    /// How the weights are quantized.
    ///
    /// `quantization` is what MLX tools write. Of the `quantization_config` of other tools, the methods whose packing is
    /// MLX's own are taken, and the others are refused by name.
    pub(crate) fn quantization(&self) -> Result<QuantizationConfig> {
        if self.get("model_file").is_some() {
            let file = self.get("model_file").and_then(Value::as_str).unwrap_or("?").to_owned();
            return Err(Error::ModelFile { file });
        }
        if self.get("quantization").is_some() {
            return Ok(QuantizationConfig::from_model_config(&self.to_value())?);
        }
        let Some(foreign) = self.get("quantization_config") else { return Ok(QuantizationConfig::default()) };
        let scheme = match foreign.get("quant_method").and_then(Value::as_str) {
            None if foreign.get("bits").is_some() => foreign.clone(),
            Some(mode @ ("mxfp4" | "mxfp8")) => serde_json::json!({"mode": mode, "bits": null, "group_size": null}),
            method => return Err(Error::QuantMethod { method: method.unwrap_or("?").to_owned() }),
        };
        Ok(QuantizationConfig::from_model_config(&serde_json::json!({"quantization": scheme}))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> ModelConfig {
        ModelConfig::new(value).unwrap()
    }

    #[test]
    fn the_generation_config_decides_on_the_end() {
        let folder = tempfile::tempdir().unwrap();
        io::write(folder.path().join("config.json"), r#"{"model_type": "llama", "eos_token_id": 1}"#).unwrap();
        io::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 3]}"#).unwrap();
        assert_eq!(ModelConfig::read(folder.path()).unwrap().get("eos_token_id"), Some(&json!([2, 3])));
    }

    #[test]
    fn code_and_foreign_packings_are_refused_by_name() {
        let refused = |value| config(value).quantization().unwrap_err().to_string();
        assert_eq!(
            refused(json!({"model_file": "evil.py"})),
            "config.json names `evil.py` as the code of the model, which is never run"
        );
        assert_eq!(
            refused(json!({"quantization_config": {"quant_method": "gptq", "bits": 4}})),
            "config.json: weights quantized by `gptq` cannot be loaded"
        );
    }

    #[test]
    fn a_folder_without_a_config_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let error = ModelConfig::read(folder.path()).unwrap_err();
        assert!(matches!(error, Error::NotAModel { .. }), "{error}");
    }
}
