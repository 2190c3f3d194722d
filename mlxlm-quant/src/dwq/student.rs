//! A model whose matrices are functions of scales and biases.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::nn::Matrix;
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, Dtype, Exception, ops, stop_gradient, transforms};
use mlxlm_models::CausalLm;
use mlxlm_train::optim::Optimizer;

use crate::backward::{self, Leaves};
use crate::{Error, Result};

/// A matrix without its scales.
#[derive(Debug)]
struct Codes {
    scheme: Scheme,
    shape: Vec<i32>,
    dtype: Dtype,
    packed: Array,
}

/// The affine matrices of a model that have less than 8 bits, with their scales and biases in `f32`.
#[derive(Debug)]
pub struct Student {
    paths: Vec<String>,
    leaves: Vec<Codes>,
    /// Scales and biases in turns.
    arrays: Vec<Array>,
}

impl Student {
    /// Takes the codes of a model.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`] if it has no such matrix.
    pub fn unpack(model: &mut dyn CausalLm) -> Result<Self> {
        let (mut paths, mut leaves, mut arrays, mut failed) = (Vec::new(), Vec::new(), Vec::new(), None);
        model.walk_mut("", &mut |path, mut leaf| {
            let Some(matrix) = leaf.matrix() else { return };
            let Matrix::Packed(packed, scheme) = &*matrix else { return };
            let Packed { weight, scales, biases: Some(biases) } = packed else { return };
            if scheme.mode != Mode::Affine || scheme.bits >= 8 {
                return;
            }
            match [scales, biases].map(|array| array.as_dtype(Dtype::Float32)) {
                [Ok(of_groups), Ok(least)] => {
                    paths.push(path.to_owned());
                    let (shape, dtype) = (matrix.shape(), scales.dtype());
                    leaves.push(Codes { scheme: *scheme, shape, dtype, packed: weight.clone() });
                    arrays.extend([of_groups, least]);
                }
                [Err(exception), _] | [_, Err(exception)] => failed = Some(exception),
            }
        });
        match failed {
            Some(exception) => Err(exception.into()),
            None if leaves.is_empty() => Err(Error::NothingToTrain),
            None => {
                transforms::eval(&arrays)?;
                Ok(Self { paths, leaves, arrays })
            }
        }
    }

    /// Scales and biases, in turns.
    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// New scales and biases, which the matrices of the model have from now on.
    pub(super) fn replace(&mut self, model: &mut dyn CausalLm, arrays: Vec<Array>) -> Result<()> {
        self.arrays = arrays;
        let all: Vec<usize> = (0..self.leaves.len()).collect();
        Ok(backward::put(model, self, &all, |leaf| self.at_rest(leaf))?)
    }

    /// Keeps how far a run came.
    pub(super) fn save(&self, path: &Path, optimizer: &Optimizer, step: usize, elapsed_s: f64) -> Result<()> {
        let mut arrays = Vec::new();
        for (i, name) in self.names().into_iter().enumerate() {
            let moments = optimizer.moments().get(i).into_iter().flatten();
            arrays.extend(moments.enumerate().map(|(k, moment)| (format!("{name}/moment.{k}"), moment.clone())));
            arrays.push((name, self.arrays[i].clone()));
        }
        let metadata = [("step", step.to_string()), ("elapsed_s", elapsed_s.to_string())];
        let metadata: BTreeMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Ok(save_safetensors(path, &arrays, &metadata)?)
    }

    /// Goes on from what [`save`](Self::save) kept; the steps made so far.
    pub(super) fn resume(&mut self, path: &Path, optimizer: &mut Optimizer) -> Result<usize> {
        let wrong = |why: String| mlxlm_train::Error::Resume { path: path.to_owned(), why };
        let file = SafetensorsFile::open(path)?;
        let step = file.metadata().get("step").and_then(|step| step.parse::<usize>().ok());
        let step = step.ok_or_else(|| wrong("it does not say which step it is of".into()))?;
        let mut found = file.arrays()?;
        let (mut arrays, mut moments) = (Vec::new(), Vec::new());
        for (name, now) in self.names().into_iter().zip(&self.arrays) {
            let array = found.remove(&name).filter(|array| array.shape() == now.shape());
            arrays.push(array.ok_or_else(|| wrong(format!("`{name}` is missing or of another shape")))?);
            moments.push((0..2).map_while(|k| found.remove(&format!("{name}/moment.{k}"))).collect());
        }
        optimizer.resume(&arrays, step as u64, moments).map_err(|error| wrong(error.to_string()))?;
        self.arrays = arrays;
        Ok(step)
    }

    fn names(&self) -> Vec<String> {
        self.paths.iter().flat_map(|path| ["scales", "biases"].map(|name| format!("{path}.{name}"))).collect()
    }
}

impl Leaves for Student {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn arrays(&self, leaf: usize) -> Result<Vec<Array>, Exception> {
        Ok(self.arrays[2 * leaf..2 * leaf + 2].to_vec())
    }

    fn dense(&self, leaf: usize, arrays: &[Array]) -> Result<Array, Exception> {
        let codes = &self.leaves[leaf];
        let numbers = codes.numbers(&arrays[0])?;
        let spread = |array: &Array| codes.as_written(array)?.expand_dims(-1);
        numbers.multiply(spread(&arrays[0])?)?.add(spread(&arrays[1])?)?.reshape(&codes.shape)
    }

    fn at_rest(&self, leaf: usize) -> Result<Matrix, Exception> {
        let codes = &self.leaves[leaf];
        let [scales, biases] = [0, 1].map(|k| self.arrays[2 * leaf + k].as_dtype(codes.dtype));
        let packed = Packed { weight: codes.packed.clone(), scales: scales?, biases: Some(biases?) };
        Ok(Matrix::Packed(packed, codes.scheme))
    }
}

impl Codes {
    /// The codes as numbers, by group: `[…, out, in / group, group]`, `f32`. They are computed when they are used, since they take
    /// eight times the memory of the codes.
    fn numbers(&self, scales: &Array) -> Result<Array, Exception> {
        let (ones, zeros) = (ops::ones::<f32>(scales.shape())?, ops::zeros::<f32>(scales.shape())?);
        let plain = Packed { weight: self.packed.clone(), scales: ones, biases: Some(zeros) };
        let numbers = quant::dequantize(&plain, self.scheme, Some(Dtype::Float32))?;
        numbers.reshape(&[scales.shape(), &[self.scheme.group_size]].concat())
    }

    /// What a file will have of scales, with the gradient of `f32`: small numbers would vanish in `f16`.
    fn as_written(&self, array: &Array) -> Result<Array, Exception> {
        let off = array.as_dtype(self.dtype)?.as_dtype(Dtype::Float32)?.subtract(array)?;
        array.add(stop_gradient(&off)?)
    }
}
