//! The golden cases, and how arrays are compared.
#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::weights::{Checkpoint, Recipe, SafetensorsFile, Tensors};
use mlxlm_core::{Array, Dtype};
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = mlxlm_core::io::read_dir(root).unwrap();
    folders.into_iter().filter(|path| path.is_dir()).map(|path| Case::open(&path)).collect()
}

impl Case {
    pub(crate) fn open(folder: &Path) -> Self {
        let expected = SafetensorsFile::open(folder.join("expected.safetensors")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Self { name, folder: folder.to_owned(), metadata: expected.metadata(), expected }
    }

    /// The case `tests/golden/{name}`.
    pub(crate) fn named(name: &str) -> Self {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name))
    }

    pub(crate) fn config(&self) -> ModelConfig {
        ModelConfig::read(&self.folder).unwrap()
    }

    /// The weights, drawn or read.
    pub(crate) fn tensors(&self) -> Tensors {
        let recipe = self.folder.join("weights.json");
        match recipe.is_file() {
            true => Recipe::read(recipe).unwrap().tensors(),
            false => Checkpoint::open(&self.folder).unwrap().tensors,
        }
    }

    pub(crate) fn model(&self) -> mlxlm_models::Result<Box<dyn CausalLm>> {
        build(&self.config(), self.tensors(), None).map(|(model, _)| model)
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

/// The values of an array as `f32`.
pub(crate) fn values(array: &Array) -> Vec<f32> {
    array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().to_vec_exact::<f32>().unwrap()
}

/// The largest difference between two arrays of the same shape.
pub(crate) fn largest_difference(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let differences = values(a).into_iter().zip(values(b)).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f32::NAN } else { most.max(d) })
}
