//! The golden cases, and how arrays are compared.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_cache::Caches;
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::recipe::HashRng;
use mlxlm_core::weights::{Checkpoint, Recipe, SafetensorsFile, Tensors};
use mlxlm_core::{Array, Dtype, ops};
use mlxlm_models::{CausalLm, ModelConfig, build};

/// A model with the logits that the reference computed.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) metadata: BTreeMap<String, String>,
    expected: SafetensorsFile,
}

/// All cases, sorted by name.
pub(crate) fn cases() -> Vec<Case> {
    let folders = mlxlm_core::io::read_dir(golden("")).unwrap();
    folders.into_iter().filter(|path| path.is_dir()).map(|path| Case::open(&path)).collect()
}

/// The folder of a case of `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The weights of a folder, drawn from its recipe or read.
pub(crate) fn tensors_of(folder: &Path) -> Tensors {
    let recipe = folder.join("weights.json");
    match recipe.is_file() {
        true => Recipe::read(recipe).unwrap().tensors(),
        false => Checkpoint::open(folder).unwrap().tensors,
    }
}

/// The model of a folder without tokenizer, with the fine-tune of `adapter` laid over it.
pub(crate) fn model_of(folder: &Path, adapter: Option<&Path>) -> mlxlm_models::Result<Box<dyn CausalLm>> {
    build(&ModelConfig::read(folder).unwrap(), tensors_of(folder), adapter).map(|(model, _)| model)
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
        ModelConfig::read(&self.folder).unwrap()
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

    pub(crate) fn model(&self) -> mlxlm_models::Result<Box<dyn CausalLm>> {
        self.model_of(self.tensors())
    }

    /// The model of this configuration with other tensors.
    pub(crate) fn model_of(&self, tensors: Tensors) -> mlxlm_models::Result<Box<dyn CausalLm>> {
        build(&self.config(), tensors, None).map(|(model, _)| model)
    }

    /// Whether the weights are plain `f32` under the names of the model: an architecture as such, in no special form.
    pub(crate) fn is_base(&self) -> bool {
        self.folder.join("weights.json").is_file()
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
