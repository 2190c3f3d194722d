//! A checkpoint while it is unpacked: tensors are taken out packed and put back in MLX's form.

use std::collections::BTreeMap;

use super::settings::Settings;
use super::{ForeignError, is_codes};
use crate::quant::{Packed, Scheme};
use crate::weights::{Checkpoint, QuantizationConfig, SmallFloat, Tensors};
use crate::{Array, Dtype, Result};

/// Scales of activations and KV caches, which nothing here reads.
const ACTIVATION_SCALES: [&str; 14] = [
    ".activation_scale",
    ".input_global_scale",
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".k_scale",
    ".k_zero_point",
    ".output_scale",
    ".q_scale",
    ".v_scale",
    ".v_zero_point",
    "_activation_scale",
    "_input_global_scale",
    "_input_scale",
];

/// The tensors, what is known of them, and what was done so far.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) tensors: Tensors,
    small_floats: BTreeMap<String, SmallFloat>,
    /// How many matrices have each scheme.
    schemes: BTreeMap<Scheme, usize>,
    /// How many matrices were unpacked.
    pub(super) unpacked: usize,
    /// How many of them had four bits or so, and have sixteen now.
    pub(super) widened: usize,
    pub(super) warnings: Vec<String>,
}

impl Work {
    pub(super) fn new(checkpoint: Checkpoint) -> Self {
        Self {
            tensors: checkpoint.tensors,
            small_floats: checkpoint.small_floats,
            schemes: BTreeMap::new(),
            unpacked: 0,
            widened: 0,
            warnings: Vec::new(),
        }
    }

    /// The names that end with `suffix`, without it.
    pub(super) fn stems(&self, suffix: &str) -> Vec<String> {
        self.tensors.keys().filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
    }

    /// A tensor that stays where it is.
    pub(super) fn get(&self, name: &str) -> Option<&Array> {
        self.tensors.get(name)
    }

    /// A tensor that `beside` needs.
    pub(super) fn need(&self, name: &str, beside: &str) -> Result<Array> {
        let missing = || ForeignError::Missing { name: name.to_owned(), beside: beside.to_owned() };
        Ok(self.tensors.get(name).cloned().ok_or_else(missing)?)
    }

    /// What kind of 8-bit or 4-bit float a tensor is in its file, if it is one.
    pub(super) fn small_float(&self, name: &str) -> Option<SmallFloat> {
        self.small_floats.get(name).copied()
    }

    /// The tensors that are such floats.
    pub(super) fn small_floats(&self) -> Vec<(String, SmallFloat)> {
        self.small_floats.iter().map(|(name, kind)| (name.clone(), *kind)).collect()
    }

    /// Forgets tensors that have done their work.
    pub(super) fn forget(&mut self, names: &[&str]) {
        for name in names {
            self.tensors.remove(*name);
            self.small_floats.remove(*name);
        }
    }

    /// Puts a matrix in as plain floats.
    pub(super) fn put_dense(&mut self, name: &str, weight: Array) {
        self.forget(&[name]);
        self.tensors.insert(name.to_owned(), weight);
        self.unpacked += 1;
    }

    /// Puts a matrix in as MLX packs it. `name` is that of its weight; one without `.weight` is a path of its own.
    pub(super) fn put_packed(&mut self, name: &str, packed: Packed, scheme: Scheme) {
        self.forget(&[name]);
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let Packed { weight, scales, biases } = packed;
        for (part, array) in [("weight", Some(weight)), ("scales", Some(scales)), ("biases", biases)] {
            if let Some(array) = array {
                self.tensors.insert(format!("{path}.{part}"), array);
            }
        }
        *self.schemes.entry(scheme).or_default() += 1;
        self.unpacked += 1;
    }

    /// The type of most floats, in which the model computes.
    pub(super) fn float_type(&self) -> Dtype {
        let elements = |dtype: Dtype| -> usize {
            self.tensors.values().filter(|array| array.dtype() == dtype).map(Array::size).sum()
        };
        let types = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];
        types.into_iter().max_by_key(|&dtype| elements(dtype)).unwrap_or(Dtype::Bfloat16)
    }

    /// Casts all floats to one type.
    pub(super) fn cast(&mut self, dtype: Dtype) -> Result<()> {
        for array in self.tensors.values_mut() {
            if array.dtype().is_float() && array.dtype() != dtype {
                *array = array.as_dtype(dtype)?;
            }
        }
        Ok(())
    }

    /// Drops scales of activations and caches, if the configuration says that there may be any.
    pub(super) fn drop_activation_scales(&mut self, settings: &Settings) {
        if settings.method.is_some() || self.unpacked > 0 {
            let unread = |name: &str| ACTIVATION_SCALES.iter().any(|end| name.ends_with(end));
            self.tensors.retain(|name, array| array.ndim() > 1 && array.size() > 1 || !unread(name));
        }
    }

    /// The scheme of most packed matrices; the others have theirs from their shapes.
    pub(super) fn quantization(&self) -> Option<QuantizationConfig> {
        let (&scheme, _) = self.schemes.iter().max_by_key(|(_, count)| **count)?;
        Some(QuantizationConfig { default: Some(scheme), ..QuantizationConfig::default() })
    }

    /// Whether any matrix may be packed.
    pub(super) fn holds_packed(&self) -> bool {
        !self.small_floats.is_empty() || self.first_packed().is_some()
    }

    /// The first matrix that is packed, as far as its type shows.
    pub(super) fn first_packed(&self) -> Option<String> {
        let packed = |array: &Array| is_codes(array.dtype()) && matches!(array.ndim(), 2 | 3);
        self.tensors.iter().find(|(_, array)| packed(array)).map(|(name, _)| name.clone())
    }

    /// Whether there are matrices as MLX packs them.
    pub(super) fn is_packed_for_mlx(&self) -> bool {
        self.stems(".scales")
            .iter()
            .any(|path| self.get(&format!("{path}.weight")).is_some_and(|weight| weight.dtype() == Dtype::Uint32))
    }
}

/// The error for a tensor whose shape does not fit.
pub(super) fn misshapen(name: &str, array: &Array, expected: String) -> ForeignError {
    ForeignError::Shape { name: name.to_owned(), got: array.shape().to_vec(), expected }
}

/// Checks a tensor's shape, which `beside` asks for.
pub(super) fn check_shape(name: &str, array: &Array, expected: &[i32], beside: (&str, &Array)) -> Result<()> {
    if array.shape() == expected {
        return Ok(());
    }
    Err(misshapen(name, array, format!("{expected:?} beside `{}` {:?}", beside.0, beside.1.shape())).into())
}

/// Checks that a tensor has rows and columns, and gives both; `kind` says in which types it may come.
pub(super) fn rows_and_columns(name: &str, array: &Array) -> Result<(i32, i32)> {
    match *array.shape() {
        [.., rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
        _ => Err(misshapen(name, array, "a matrix, or a stack of them".into()).into()),
    }
}

/// Checks a tensor's type.
pub(super) fn check_type(
    name: &str,
    array: &Array,
    expected: &'static str,
    fits: impl Fn(Dtype) -> bool,
) -> Result<()> {
    if fits(array.dtype()) {
        return Ok(());
    }
    Err(ForeignError::Type { name: name.to_owned(), got: array.dtype(), expected }.into())
}

/// Checks that a tensor is of floats.
pub(super) fn check_float(name: &str, array: &Array) -> Result<()> {
    check_type(name, array, "a float", |dtype| dtype.is_float())
}

/// Checks that a tensor is of 32-bit words, and gives them without a sign.
pub(super) fn words_of(name: &str, array: &Array) -> Result<Array> {
    check_type(name, array, "32-bit words", |dtype| matches!(dtype, Dtype::Int32 | Dtype::Uint32))?;
    Ok(array.view_dtype(Dtype::Uint32)?)
}
