//! From the tensors of a GGUF file to those of the original checkpoint: names, the order of rows, norms, and one type for all.

use std::collections::BTreeMap;

use mlxlm_core::quant::{Packed, Scheme};
use mlxlm_core::weights::gguf::{GgufFile, GgufTensor, Repacked, TensorType};
use mlxlm_core::weights::{QuantizationConfig, Tensors};
use mlxlm_core::{Array, Dtype, ops};

use super::family::Family;
use super::names;
use crate::{ModelConfig, Result};

/// The tensors and the warnings; the configuration gets the type of the weights and how they are packed.
pub(super) fn tensors(file: &GgufFile, family: &Family, config: &mut ModelConfig) -> Result<(Tensors, Vec<String>)> {
    let mut read = Reading { family, config, tensors: Tensors::new(), schemes: BTreeMap::new(), repacked: Vec::new() };
    for name in file.names().filter(|name| !names::is_of_config(name)) {
        let Some((path, leaf)) = names::path_and_leaf(name, family) else {
            let why = format!("is a tensor that no model of the architecture {} has", family.name);
            return Err(file.metadata().wrong(name, why).into());
        };
        read.add(file, name, &path, leaf)?;
    }
    let Reading { mut tensors, schemes, repacked, .. } = read;
    let dtype = type_of(&tensors, family)?;
    for array in tensors.values_mut().filter(|array| array.dtype().is_float() && array.dtype() != dtype) {
        *array = array.as_dtype(dtype)?;
    }
    let warnings = warnings(&repacked, dtype, !schemes.is_empty());
    config.set("torch_dtype", Some(type_name(dtype).into()));
    if let Some(quantization) = quantization(schemes).to_json() {
        config.set("quantization", Some(quantization.clone()));
        config.set("quantization_config", Some(quantization));
    }
    Ok((tensors, warnings))
}

/// What was read so far.
struct Reading<'a> {
    family: &'a Family,
    config: &'a ModelConfig,
    tensors: Tensors,
    schemes: BTreeMap<String, Scheme>,
    repacked: Vec<Repacked>,
}

impl Reading<'_> {
    fn add(&mut self, file: &GgufFile, name: &str, path: &str, leaf: &str) -> Result<()> {
        let tensor = file.tensor(name)?;
        let heads = self.permuted_heads(path)?;
        let order = |array: Array| match heads {
            Some(heads) => original_rows(&array, heads).map_err(|why| file.metadata().wrong(name, why)),
            None => Ok(array),
        };
        match tensor {
            GgufTensor::Dense(array) if !array.dtype().is_float() => {
                return Err(file.metadata().wrong(name, "is a tensor of whole numbers, expected weights").into());
            }
            GgufTensor::Dense(array) => {
                let array = order(array)?;
                let array = if self.family.one_added && path.ends_with("norm") {
                    array.subtract(Array::from_f32(1.0))?
                } else {
                    array
                };
                self.tensors.insert(format!("{path}.{leaf}"), array);
            }
            GgufTensor::Packed { packed: Packed { weight, scales, biases }, scheme, repacked } => {
                let parts = [("weight", Some(weight)), ("scales", Some(scales)), ("biases", biases)];
                for (part, array) in parts {
                    if let Some(array) = array {
                        self.tensors.insert(format!("{path}.{part}"), order(array)?);
                    }
                }
                self.schemes.insert(path.to_owned(), scheme);
                self.repacked.extend(repacked);
            }
        }
        Ok(())
    }

    /// The heads of a projection whose rows are in another order in the file.
    fn permuted_heads(&self, path: &str) -> Result<Option<i32>> {
        let key = match path.rsplit('.').next() {
            Some("q_proj") if self.family.permuted => "num_attention_heads",
            Some("k_proj") if self.family.permuted => "num_key_value_heads",
            _ => return Ok(None),
        };
        let heads = self.config.get(key).and_then(serde_json::Value::as_i64);
        let heads = heads.and_then(|heads| i32::try_from(heads).ok()).filter(|&heads| heads > 0);
        heads.map(Some).ok_or_else(|| crate::Error::config(format!("`{key}` is not a small positive number")))
    }
}

/// Undoes the permutation of rows: in the file the two numbers that rotate together are neighbours, and in the checkpoint they are
/// half a head apart.
///
/// # Shapes
/// - `array`: `[heads * d, …]`, and the same comes back
fn original_rows(array: &Array, heads: i32) -> Result<Array, String> {
    let shape = array.shape().to_vec();
    let rows = shape.first().copied().unwrap_or(0);
    if rows % heads != 0 || rows / heads % 2 != 0 {
        return Err(format!("has {rows} rows, which are not {heads} heads of an even size"));
    }
    let rest = shape.iter().skip(1).try_fold(1_i32, |rest, &size| rest.checked_mul(size));
    let rest = rest.ok_or_else(|| format!("has the shape {shape:?}, which is too large"))?;
    let moved = || -> Result<Array, mlxlm_core::Exception> {
        let pairs = array.reshape(&[heads, rows / heads / 2, 2, rest])?;
        pairs.swap_axes(1, 2)?.reshape(&shape)
    };
    moved().map_err(|exception| exception.to_string())
}

/// The type of all weights: the smallest in which none of them changes.
fn type_of(tensors: &Tensors, family: &Family) -> Result<Dtype> {
    let floats = || tensors.iter().filter(|(_, array)| array.dtype().is_float());
    let has = |dtype| floats().any(|(_, array)| array.dtype() == dtype);
    let candidate = match (has(Dtype::Float16), has(Dtype::Bfloat16)) {
        (false, true) => Dtype::Bfloat16,
        (_, false) if !family.large => Dtype::Float16,
        _ => return Ok(Dtype::Float32),
    };
    for (name, array) in floats().filter(|(_, array)| array.dtype() == Dtype::Float32) {
        // Files keep vectors and routers in 32 bits, whatever the type of the model was.
        let is_small = array.ndim() < 2 || name.ends_with(".gate.weight");
        if !is_small || !is_exact(array, candidate)? {
            return Ok(Dtype::Float32);
        }
    }
    Ok(candidate)
}

fn is_exact(array: &Array, dtype: Dtype) -> Result<bool> {
    let same = array.as_dtype(dtype)?.as_dtype(array.dtype())?.eq(array)?;
    Ok(ops::all(&same, None)?.try_item_exact::<bool>().map_err(mlxlm_core::Error::from)?)
}

fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float16 => "float16",
        Dtype::Bfloat16 => "bfloat16",
        _ => "float32",
    }
}

/// The scheme that most leaves have, and the others by path.
fn quantization(schemes: BTreeMap<String, Scheme>) -> QuantizationConfig {
    let mut counts: BTreeMap<Scheme, usize> = BTreeMap::new();
    for scheme in schemes.values() {
        *counts.entry(*scheme).or_default() += 1;
    }
    let default = counts.into_iter().max_by_key(|&(_, count)| count).map(|(scheme, _)| scheme);
    let others = schemes.into_iter().filter(|(_, scheme)| Some(*scheme) != default);
    QuantizationConfig { default, paths: others.map(|(path, scheme)| (path, Some(scheme))).collect() }
}

/// What was lost, and what can be gained.
fn warnings(repacked: &[Repacked], dtype: Dtype, is_packed: bool) -> Vec<String> {
    let mut by_type: BTreeMap<TensorType, Vec<f64>> = BTreeMap::new();
    for repacked in repacked {
        by_type.entry(repacked.from).or_default().push(repacked.error);
    }
    let mut warnings: Vec<String> = by_type
        .into_iter()
        .map(|(from, errors)| {
            let greatest = errors.iter().copied().fold(0.0, f64::max);
            format!(
                "{} tensors of the type {} were packed anew, because MLX has no groups of 16: their weights changed by up \
                 to {:.2} %",
                errors.len(),
                from.name(),
                100.0 * greatest
            )
        })
        .collect();
    if is_packed && dtype == Dtype::Float32 {
        warnings.push(
            "scales and norms are in float32, the smallest type that holds all of this file exactly; \
             `mlxlm convert --dtype bfloat16` makes a smaller and faster model of rounded ones"
                .to_owned(),
        );
    }
    warnings
}
