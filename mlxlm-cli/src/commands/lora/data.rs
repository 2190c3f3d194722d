//! Which datasets the settings name: `data`, or the entries of `hf_dataset`.

use mlxlm_train::data::{DatasetOptions, Keys, Source};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::settings::Settings;
use crate::failure::{Failure, Result};

/// An entry of `hf_dataset`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(alias = "name")]
    path: String,
    revision: Option<String>,
    /// Arguments of `datasets.load_dataset`, of which `name` is known here: the configuration of the dataset.
    #[serde(default)]
    config: Map<String, Value>,
    weight: Option<f64>,
    train_split: Option<String>,
    valid_split: Option<String>,
    test_split: Option<String>,
    prompt_feature: Option<String>,
    completion_feature: Option<String>,
    text_feature: Option<String>,
    chat_feature: Option<String>,
}

/// What is to be read.
pub(super) fn options(settings: &Settings) -> Result<DatasetOptions> {
    let sources = match &settings.hf_dataset {
        None => vec![Source { keys: keys(settings, None), ..Source::new(settings.data.clone()) }],
        Some(Value::Array(entries)) => entries.iter().map(|entry| source(entry, settings)).collect::<Result<_>>()?,
        Some(entry) => vec![source(entry, settings)?],
    };
    Ok(DatasetOptions {
        sources,
        train: settings.train,
        test: settings.test,
        mask_prompt: settings.mask_prompt,
        max_len: Some(settings.max_seq_length),
        seed: settings.seed,
    })
}

fn source(entry: &Value, settings: &Settings) -> Result<Source> {
    let wrong = |why: String| Failure::usage(format!("`hf_dataset`: {why}"));
    let entry = Entry::deserialize(entry).map_err(|error| wrong(error.to_string()))?;
    if let Some(other) = entry.config.keys().find(|key| *key != "name") {
        return Err(wrong(format!("`config.{other}` is not supported; `name` is")));
    }
    let config = entry.config.get("name").and_then(Value::as_str).map(str::to_owned);
    let keys = keys(settings, Some(&entry));
    // The parts that mlx-lm takes where none is named.
    let or = |split: Option<String>, usual: &str| Some(split.unwrap_or_else(|| usual.to_owned()));
    Ok(Source {
        path: entry.path,
        revision: entry.revision,
        config,
        weight: entry.weight.unwrap_or(1.0),
        keys,
        train_split: or(entry.train_split, "train[:80%]"),
        valid_split: or(entry.valid_split, "train[-10%:]"),
        test_split: entry.test_split,
    })
}

/// The names of fields: those of an entry, else those of the settings, else the usual ones.
fn keys(settings: &Settings, entry: Option<&Entry>) -> Keys {
    let usual = Keys::default();
    let pick = |own: Option<&Option<String>>, all: &Option<String>, usual: String| {
        own.cloned().flatten().or_else(|| all.clone()).unwrap_or(usual)
    };
    Keys {
        prompt: pick(entry.map(|entry| &entry.prompt_feature), &settings.prompt_feature, usual.prompt),
        completion: pick(entry.map(|entry| &entry.completion_feature), &settings.completion_feature, usual.completion),
        chat: pick(entry.map(|entry| &entry.chat_feature), &settings.chat_feature, usual.chat),
        text: pick(entry.map(|entry| &entry.text_feature), &settings.text_feature, usual.text),
        chosen: usual.chosen,
        rejected: usual.rejected,
    }
}
