//! Merging models of one architecture into one: slerp, linear, TIES and DARE, tensor by tensor.
//!
//! - Slerp and its schedules: `mlx_lm/merge.py` @ 0.14, which mlx-lm had until 2025.
//! - Linear, TIES (arXiv:2306.01708) and DARE (arXiv:2311.03099): as mergekit 0.1 does them (`merge_methods/generalized_task_arithmetic.py`).
//!
//! Nothing is computed before a shard is written, so that one shard at a time lies in memory.

mod config;
mod error;
mod methods;

use std::path::Path;

use mlxlm_core::weights::{Checkpoint, Tensors};
use mlxlm_core::{Array, Dtype};
use mlxlm_models::{ModelConfig, NewFolder, save_tensors};
use serde_json::Value;

pub use config::{MergeConfig, Method, Schedule, Weighed};
pub use error::MergeError;

use crate::Result;

/// A model on disk that takes part.
struct Part {
    name: String,
    config: ModelConfig,
    tensors: Tensors,
}

/// Merges models into the folder `target`. `folder_of` finds the folder of a model by its name in the configuration.
///
/// Configuration and tokenizer are those of the base model, or of the first one where there is none.
///
/// # Errors
/// [`MergeError`] for models that do not fit together, with every tensor that differs; nothing is left behind then.
pub fn merge(
    config: &MergeConfig,
    target: &Path,
    folder_of: &mut dyn FnMut(&str) -> Result<std::path::PathBuf>,
) -> Result<()> {
    config.check()?;
    let new = NewFolder::create(target)?;
    let mut parts = Vec::new();
    let mut first_folder = None;
    for name in config.names() {
        let folder = folder_of(name)?;
        parts.push(open(name, &folder)?);
        first_folder.get_or_insert(folder);
    }
    let Some((base, others)) = parts.split_first() else { return Ok(()) };
    others.iter().try_for_each(|part| check_fit(base, part))?;
    let layers = layers(&base.tensors);
    if layers == 0 {
        return Err(MergeError::NoLayers { model: base.name.clone() }.into());
    }
    let plan = methods::Plan::new(config, layers)?;
    let mut merged = Vec::with_capacity(base.tensors.len());
    for (name, own) in &base.tensors {
        let all: Vec<&Array> = std::iter::once(own).chain(others.iter().map(|part| &part.tensors[name])).collect();
        let dtype = config.dtype.filter(|_| own.dtype().is_float()).unwrap_or(own.dtype());
        let array = match own.dtype().is_float() {
            true => plan.merged(name, layer_of(name), &all)?,
            false => own.clone(),
        };
        merged.push((name.clone(), array.as_dtype(dtype)?));
    }
    if let Some(dtype) = config.dtype {
        let key = if base.config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        let mut changed = base.config.clone();
        changed.set(key, Some(type_name(dtype).into()));
        save_tensors(new.path(), merged, &changed, first_folder.as_deref().unwrap_or(target))?;
    } else {
        save_tensors(new.path(), merged, &base.config, first_folder.as_deref().unwrap_or(target))?;
    }
    Ok(new.finish()?)
}

fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float16 => "float16",
        Dtype::Bfloat16 => "bfloat16",
        _ => "float32",
    }
}

fn open(name: &str, folder: &Path) -> Result<Part> {
    let config = ModelConfig::read(folder)?;
    let is_packed = ["quantization", "quantization_config"].iter().any(|key| config.get(key).is_some());
    if is_packed {
        return Err(MergeError::Quantized { model: name.to_owned() }.into());
    }
    let Checkpoint { tensors, small_floats, .. } = Checkpoint::open(folder)?;
    match small_floats.is_empty() {
        true => Ok(Part { name: name.to_owned(), config, tensors }),
        false => Err(MergeError::Quantized { model: name.to_owned() }.into()),
    }
}

/// Refuses models of different types or shapes.
fn check_fit(base: &Part, other: &Part) -> Result<()> {
    let model_type = |part: &Part| part.config.get("model_type").and_then(|value| value.as_str().map(str::to_owned));
    let (ours, theirs) = (model_type(base), model_type(other));
    if ours != theirs {
        let name = |name: Option<String>| name.unwrap_or_else(|| "none".into());
        let (base_type, other_type) = (name(ours), name(theirs));
        return Err(MergeError::Types { base_type, other_type, other: other.name.clone() }.into());
    }
    let mut differing = Vec::new();
    for (name, array) in &base.tensors {
        match other.tensors.get(name) {
            None => differing.push(format!("`{name}` is missing")),
            Some(theirs) if theirs.shape() != array.shape() => {
                differing.push(format!("`{name}` is {:?}, expected {:?}", theirs.shape(), array.shape()));
            }
            Some(_) => {}
        }
    }
    let more = other.tensors.keys().filter(|name| !base.tensors.contains_key(*name));
    differing.extend(more.map(|name| format!("`{name}` is in none of the others")));
    match differing.is_empty() {
        true => Ok(()),
        false => Err(MergeError::Tensors { model: other.name.clone(), differing }.into()),
    }
}

/// The layer of a tensor and its name inside of it: `model.layers.3.mlp.up_proj.weight` is `(3, "mlp.up_proj.weight")`.
fn layer_of(name: &str) -> Option<(usize, &str)> {
    let parts = ["layers.", "h.", "blocks."];
    let after = |part: &&str| {
        let at = name.find(part)?;
        let is_start = at == 0 || name[..at].ends_with('.');
        let (layer, rest) = name[at + part.len()..].split_once('.')?;
        is_start.then_some((layer.parse().ok()?, rest))
    };
    parts.iter().find_map(after)
}

fn layers(tensors: &Tensors) -> usize {
    tensors.keys().filter_map(|name| layer_of(name)).map(|(layer, _)| layer + 1).max().unwrap_or(0)
}

/// A number of an entry, with its place for errors.
fn number(value: &Value, key: &str) -> Result<f64, MergeError> {
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| MergeError::Config { why: format!("`{key}` is {value}, expected a number") })
}
