//! The folder of a fine-tune, as Python mlx-lm's trainer writes it and its `load_adapters` reads it:
//! `adapters.safetensors` with all trained parameters by full name, `adapter_config.json` with the arguments.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::io;
use mlxlm_core::weights::{AdapterConfig, save_safetensors};
use serde_json::{Map, Value};

use crate::{Result, Trainable};

/// Writes `adapter_config.json`: what loading needs, and the other arguments of the training as they were given.
pub fn save_adapter_config(
    folder: impl AsRef<Path>,
    config: &AdapterConfig,
    other_arguments: &Map<String, Value>,
) -> Result<()> {
    let folder = folder.as_ref();
    let path = folder.join("adapter_config.json");
    let config =
        serde_json::to_value(config).map_err(|source| mlxlm_core::Error::Json { path: path.clone(), source })?;
    let mut all = other_arguments.clone();
    all.extend(config.as_object().cloned().unwrap_or_default());
    all.sort_keys();
    io::create_dir_all(folder)?;
    Ok(io::write_json(path, &Value::Object(all))?)
}

/// Writes `adapters.safetensors`, and as a file of its own `{step:07}_adapters.safetensors` if a step is given.
pub fn save_adapters(folder: impl AsRef<Path>, trainable: &Trainable, step: Option<u64>) -> Result<()> {
    let folder = folder.as_ref();
    io::create_dir_all(folder)?;
    let named = trainable.named();
    // The one that others load comes last: if the disk is full, it stays as it was.
    let of_step = step.map(|step| format!("{step:07}_adapters.safetensors"));
    for name in of_step.into_iter().chain(["adapters.safetensors".to_owned()]) {
        save_safetensors(folder.join(name), &named, &BTreeMap::new())?;
    }
    Ok(())
}
