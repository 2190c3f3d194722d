//! `config.json`, with what `generation_config.json` adds, checked before anything is built from it.

mod common;
mod per_layer;
mod python;
mod rope;
mod unread;

pub use common::{Common, HeadCounts};
pub(crate) use common::{MAX_WIDTH, all_within, always_on, below, missing, positive, product, unsupported, within};
pub(crate) use per_layer::{PerLayer, of_layer};
pub use rope::RopeConfig;
pub(crate) use rope::{Factors, RopeEntries};
pub(crate) use unread::warning;

use std::path::Path;

use mlxlm_core::text::token_ids;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// A model's configuration as it lies on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig(Map<String, Value>);

impl ModelConfig {
    /// Reads the configuration of a folder. An `eos_token_id` of `generation_config.json` that names a token replaces
    /// that of `config.json`.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(Error::NotAModel { folder: folder.to_owned() });
        }
        let mut config = Self::new(python::read_json(&path)?)?;
        // A model of images or sound may say only of its text what ends it.
        if config.get("eos_token_id").is_none() {
            let of_text = config.get("text_config").and_then(|text| text.get("eos_token_id")).cloned();
            config.set("eos_token_id", of_text);
        }
        let generation = folder.join("generation_config.json");
        if generation.is_file() {
            let generation = python::read_json(&generation)?;
            if let Some(eos) = generation.get("eos_token_id").filter(|eos| token_ids(eos) != Some(Vec::new())) {
                config.0.insert("eos_token_id".into(), eos.clone());
            }
        }
        Ok(config)
    }

    /// Reads a file `config.json`, whatever its name, or the folder that has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        match path.as_ref() {
            path if path.is_dir() => Self::read(path),
            path => Self::new(python::read_json(path)?),
        }
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

    /// The entries' names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }

    /// A copy in which the entries of `defaults` stand for those that are missing.
    pub(crate) fn or(&self, defaults: &Self) -> Self {
        let mut entries = defaults.0.clone();
        entries.extend(self.0.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())));
        Self(entries)
    }

    /// As [`or`](Self::or), where a null is an answer: it hides what `defaults` has.
    pub(crate) fn over(&self, defaults: &Self) -> Self {
        let mut entries = defaults.0.clone();
        entries.extend(self.0.clone());
        Self(entries)
    }

    /// A copy in which each entry that has another name here is under its usual one, unless that is there too; one that says the
    /// same as the usual one is left out.
    pub(crate) fn renamed(&self, aliases: &[(&str, &str)]) -> Self {
        let mut entries = self.0.clone();
        for (alias, usual) in aliases {
            match (entries.get(*usual), entries.get(*alias)) {
                (None | Some(Value::Null), Some(value)) => {
                    let value = value.clone();
                    entries.insert((*usual).to_owned(), value);
                }
                (Some(value), Some(same)) if value == same => {}
                _ => continue,
            }
            entries.remove(*alias);
        }
        Self(entries)
    }

    /// The object `key`, as a configuration of its own.
    pub(crate) fn nested(&self, key: &str) -> Result<Self> {
        match self.get(key) {
            Some(Value::Object(entries)) => Ok(Self(entries.clone())),
            Some(_) => Err(Error::config(format!("`{key}` is not an object"))),
            None => Err(missing(key)),
        }
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

    /// Refuses a folder that brings its own code.
    pub(crate) fn check_code(&self) -> Result<()> {
        match self.get("model_file") {
            None => Ok(()),
            Some(file) => Err(Error::ModelFile { file: file.as_str().unwrap_or("?").to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use mlxlm_core::io;
    use serde_json::json;

    use super::*;

    fn config(value: Value) -> ModelConfig {
        ModelConfig::new(value).unwrap()
    }

    #[test]
    fn the_generation_config_decides_on_the_end() {
        let folder = tempfile::tempdir().unwrap();
        io::write(folder.path().join("config.json"), r#"{"model_type": "llama", "eos_token_id": 1}"#).unwrap();
        for (generation, expected) in
            [("[2, 3]", json!([2, 3])), ("0", json!(0)), ("[]", json!(1)), ("[-1, null]", json!(1)), ("-1", json!(1))]
        {
            let generation = format!(r#"{{"eos_token_id": {generation}}}"#);
            io::write(folder.path().join("generation_config.json"), generation).unwrap();
            assert_eq!(ModelConfig::read(folder.path()).unwrap().get("eos_token_id"), Some(&expected));
        }
    }

    #[test]
    fn the_end_may_stand_with_the_text() {
        let folder = tempfile::tempdir().unwrap();
        for (config, expected) in [
            (json!({"text_config": {"eos_token_id": 7}}), Some(json!(7))),
            (json!({"text_config": {"eos_token_id": 7}, "eos_token_id": [8]}), Some(json!([8]))),
            (json!({"text_config": {}}), None),
        ] {
            io::write_json(folder.path().join("config.json"), &config).unwrap();
            assert_eq!(ModelConfig::read(folder.path()).unwrap().get("eos_token_id"), expected.as_ref());
        }
    }

    #[test]
    fn code_is_refused_by_name() {
        let error = config(json!({"model_file": "evil.py"})).check_code().unwrap_err();
        assert_eq!(error.to_string(), "config.json names `evil.py` as code of the model, which is never run");
    }

    #[test]
    fn a_folder_without_a_config_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let error = ModelConfig::read(folder.path()).unwrap_err();
        assert!(matches!(error, Error::NotAModel { .. }), "{error}");
    }
}
