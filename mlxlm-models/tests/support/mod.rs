//! The golden cases, and how arrays are compared.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc, reason = "each test file uses a part of it")]

pub(crate) mod fuzz;
pub(crate) mod golden;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_cache::Caches;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::recipe::HashRng;
use mlxlm_core::weights::{Checkpoint, Recipe, SafetensorsFile, Tensors};
use mlxlm_core::{Array, Dtype, ops};
use mlxlm_models::{CausalLm, ModelConfig, build};
use serde_json::Value;

/// A model with the logits that the reference computed.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) metadata: BTreeMap<String, String>,
    expected: SafetensorsFile,
}

/// All cases, sorted by name.
pub(crate) fn cases() -> Vec<Case> {
    cases_in(&golden(""))
}

/// All cases of a folder, sorted by name.
pub(crate) fn cases_in(folder: &Path) -> Vec<Case> {
    let folders = mlxlm_core::io::read_dir(folder).unwrap();
    folders
        .into_iter()
        .filter(|path| path.join("expected.safetensors").is_file())
        .map(|path| Case::open(&path))
        .collect()
}

/// The folder of a case of `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The weights of a folder, drawn from its recipe or read.
pub(crate) fn tensors_of(folder: &Path) -> Tensors {
    let recipe = folder.join("weights.json");
    match recipe.is_file() {
        true => Recipe::read(&recipe).unwrap_or_else(|e| panic!("{}: {e}", recipe.display())).tensors(),
        false => Checkpoint::open(folder).unwrap().tensors,
    }
}

/// The model of a folder without tokenizer, with the fine-tune of `adapter` laid over it.
pub(crate) fn model_of(folder: &Path, adapter: Option<&Path>) -> mlxlm_models::Result<Box<dyn CausalLm>> {
    build(&as_the_reference(ModelConfig::read(folder).unwrap()), tensors_of(folder), adapter).map(|built| built.model)
}

/// A configuration without what the reference passes over and we act on: short factors of a rotation, how yarn is rounded
/// and scaled, and what Falcon-H1 multiplies keys with.
fn as_the_reference(mut config: ModelConfig) -> ModelConfig {
    for place in ["rope_scaling", "rope_parameters"] {
        if let Some(mut rope) = config.get(place).cloned() {
            for key in ["short_factor", "short_mscale", "truncate", "attention_factor"] {
                rope.as_object_mut().and_then(|rope| rope.remove(key));
            }
            config.set(place, Some(rope));
        }
    }
    if config.model_type().is_ok_and(|name| name == "falcon_h1") {
        config.set("key_multiplier", Some(1.0.into()));
    }
    config
}

impl Case {
    fn open(folder: &Path) -> Self {
        let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Self { name, folder: folder.to_owned(), metadata: expected.metadata(), expected }
    }

    /// The case `tests/golden/{name}`.
    pub(crate) fn named(name: &str) -> Self {
        Self::open(&golden(name))
    }

    pub(crate) fn config(&self) -> ModelConfig {
        as_the_reference(ModelConfig::read(&self.folder).unwrap())
    }

    /// The weights, drawn or read.
    pub(crate) fn tensors(&self) -> Tensors {
        tensors_of(&self.folder)
    }

    /// The weights with every float in this type.
    pub(crate) fn tensors_as(&self, dtype: Dtype) -> Tensors {
        let cast = |array: Array| if array.dtype().is_float() { array.as_dtype(dtype).unwrap() } else { array };
        self.tensors().into_iter().map(|(name, array)| (name, cast(array))).collect()
    }

    /// The tensors and what their file says of their types.
    fn checkpoint(&self) -> Checkpoint {
        match self.has_recipe() {
            true => self.tensors().into(),
            false => Checkpoint::open(&self.folder).unwrap(),
        }
    }

    pub(crate) fn model(&self) -> mlxlm_models::Result<Box<dyn CausalLm>> {
        build(&self.config(), self.checkpoint(), None).map(|built| built.model)
    }

    /// The model with other entries of its configuration.
    pub(crate) fn model_with(&self, entries: &[(&str, Value)]) -> mlxlm_models::Result<Box<dyn CausalLm>> {
        let mut config = self.config();
        for (key, value) in entries {
            config.set(key, Some(value.clone()));
        }
        build(&config, self.checkpoint(), None).map(|built| built.model)
    }

    /// The model of this configuration with other tensors.
    pub(crate) fn model_of(&self, tensors: Tensors) -> mlxlm_models::Result<Box<dyn CausalLm>> {
        model_with(&self.config(), tensors)
    }

    /// Whether the weights are plain `f32` under the names of the model: an architecture as such, in no special form.
    pub(crate) fn is_base(&self) -> bool {
        self.has_recipe() && self.config().get("quantization_config").is_none()
    }

    fn has_recipe(&self) -> bool {
        self.folder.join("weights.json").is_file()
    }

    /// Whether the configuration says that the embedding table is the head.
    pub(crate) fn is_tied(&self) -> bool {
        self.config().get("tie_word_embeddings").is_some_and(|tied| *tied == true)
    }

    /// Whether the reference itself reads otherwise token by token than at once.
    pub(crate) fn is_torn(&self) -> bool {
        self.number("decode_gap") > 1e-3 * self.number("logit_std")
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.expected.names().iter().any(|other| other == name)
    }

    pub(crate) fn expected(&self, name: &str) -> Array {
        self.expected.array(name).unwrap()
    }

    /// Whether weights are of 16 bits, so that the reference itself is far from exact.
    pub(crate) fn is_16_bit(&self) -> bool {
        self.name.contains("16")
    }

    /// A number of the metadata.
    pub(crate) fn number(&self, key: &str) -> f32 {
        self.metadata.get(key).and_then(|number| number.parse().ok()).unwrap_or(0.0)
    }
}

/// The model of this configuration with these tensors.
pub(crate) fn model_with(config: &ModelConfig, tensors: Tensors) -> mlxlm_models::Result<Box<dyn CausalLm>> {
    build(config, tensors, None).map(|built| built.model)
}

/// The logits of a prefill of `n` tokens and single steps after it.
pub(crate) fn prefill_then_decode(model: &dyn CausalLm, tokens: &Array, n: i32) -> Array {
    let mut caches = Caches::new(&model.cache_kinds());
    let first = model.forward(&columns(tokens, 0, n), Some(&mut caches)).unwrap();
    ops::concatenate(&[first, step_by_step(model, &columns(tokens, n, tokens.dim(1)), &mut caches)], 1).unwrap()
}

/// The logits of tokens that are read one by one.
pub(crate) fn step_by_step(model: &dyn CausalLm, tokens: &Array, caches: &mut Caches) -> Array {
    let steps = (0..tokens.dim(1)).map(|i| model.forward(&columns(tokens, i, i + 1), Some(caches)).unwrap());
    let parts: Vec<Array> = steps.collect();
    ops::concatenate(&parts, 1).unwrap()
}

/// The places `from` to `to` of all rows.
pub(crate) fn columns(array: &Array, from: i32, to: i32) -> Array {
    array.try_index((.., from..to)).unwrap()
}

/// Drawn values with the given deviation.
pub(crate) fn drawn(name: &str, shape: &[i32], deviation: f32) -> Array {
    let mut rng = HashRng::new(7, name, 0);
    let count: i32 = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| deviation * rng.normal() as f32).collect();
    Array::from_slice(&values, shape)
}

/// The values of an array as `f32`.
pub(crate) fn values(array: &Array) -> Vec<f32> {
    array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

/// The largest value, without its sign.
pub(crate) fn largest(array: &Array) -> f32 {
    values(array).iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// The largest difference between two arrays of the same shape; not a number if either holds one.
pub(crate) fn largest_difference(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let differences = values(a).into_iter().zip(values(b)).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, |most: f32, d| if d.is_nan() || most.is_nan() { f32::NAN } else { most.max(d) })
}
