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

/// What is trained of a group of weights: two numbers, one for its scale and one for its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Scale and bias themselves, as mlx-lm trains them.
    Weight,
    /// How many quantization steps the group is stretched from its middle at its ends, and how many it is moved. A learning rate then
    /// means the same for all bits and all sizes of weights: a rate that suits 3 bits moves the ends of a group of 8 bits, whose steps
    /// are 36 times smaller and whose scale counts 36 times as much there, by many steps.
    Step,
}

/// A matrix as it came.
#[derive(Debug)]
struct Codes {
    scheme: Scheme,
    packed: Array,
    /// Scales and biases before the training.
    before: [Array; 2],
}

/// The affine matrices of a model that have less than 8 bits, with what is trained of them in `f32`.
#[derive(Debug)]
pub struct Student {
    unit: Unit,
    paths: Vec<String>,
    leaves: Vec<Codes>,
    /// What is trained: for scales and for biases, in turns.
    arrays: Vec<Array>,
}

impl Student {
    /// Takes the codes of a model.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`] if it has no such matrix.
    pub fn unpack(model: &mut dyn CausalLm, unit: Unit) -> Result<Self> {
        let (mut paths, mut leaves) = (Vec::new(), Vec::new());
        model.walk_mut("", &mut |path, mut leaf| {
            let Some(matrix) = leaf.matrix() else { return };
            let Matrix::Packed(packed, scheme) = &*matrix else { return };
            let Packed { weight, scales, biases: Some(biases) } = packed else { return };
            if scheme.mode != Mode::Affine || scheme.bits >= 8 {
                return;
            }
            let before = [scales, biases].map(Array::clone);
            paths.push(path.to_owned());
            leaves.push(Codes { scheme: *scheme, packed: weight.clone(), before });
        });
        if leaves.is_empty() {
            return Err(Error::NothingToTrain);
        }
        let first = |array: &Array| match unit {
            Unit::Weight => array.as_dtype(Dtype::Float32),
            Unit::Step => ops::zeros::<f32>(array.shape()),
        };
        let arrays = leaves.iter().flat_map(|codes| &codes.before).map(first).collect::<Result<Vec<_>, _>>()?;
        transforms::eval(&arrays)?;
        Ok(Self { unit, paths, leaves, arrays })
    }

    /// What is trained: for scales and for biases, in turns.
    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// New values of what is trained, which the matrices of the model have from now on.
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
        let metadata =
            [("step", step.to_string()), ("elapsed_s", elapsed_s.to_string()), ("unit", self.unit.name().to_owned())];
        let metadata: BTreeMap<String, String> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        Ok(save_safetensors(path, &arrays, &metadata)?)
    }

    /// Goes on from what [`save`](Self::save) kept; the steps made so far.
    pub(super) fn resume(&mut self, path: &Path, optimizer: &mut Optimizer) -> Result<usize> {
        let wrong = |why: String| mlxlm_train::Error::Resume { path: path.to_owned(), why };
        let file = SafetensorsFile::open(path)?;
        let step = file.metadata().get("step").and_then(|step| step.parse::<usize>().ok());
        let step = step.ok_or_else(|| wrong("it does not say which step it is of".into()))?;
        if file.metadata().get("unit").is_none_or(|unit| unit != self.unit.name()) {
            return Err(wrong("it is of a run with the other kind of learning rate".into()).into());
        }
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
        let [scales, biases] = codes.trained(self.unit, arrays)?;
        let (scales, biases) = (codes.as_written(&scales)?, codes.as_written(&biases)?);
        quant::dense(&Packed { weight: codes.packed.clone(), scales, biases: Some(biases) }, codes.scheme)
    }

    fn at_rest(&self, leaf: usize) -> Result<Matrix, Exception> {
        let codes = &self.leaves[leaf];
        let [scales, biases] = codes.trained(self.unit, &self.arrays[2 * leaf..2 * leaf + 2])?;
        let [scales, biases] = [scales, biases].map(|array| array.as_dtype(codes.dtype()));
        let packed = Packed { weight: codes.packed.clone(), scales: scales?, biases: Some(biases?) };
        Ok(Matrix::Packed(packed, codes.scheme))
    }
}

impl Unit {
    /// Its name in checkpoints.
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Step => "step",
        }
    }
}

impl Codes {
    fn dtype(&self) -> Dtype {
        self.before[0].dtype()
    }

    /// Scales and biases in `f32`, from what is trained of them.
    fn trained(&self, unit: Unit, arrays: &[Array]) -> Result<[Array; 2], Exception> {
        let [of_scale, of_bias] = arrays else { return Err(Exception::custom("scales and biases are two arrays")) };
        if unit == Unit::Weight {
            return Ok([of_scale.clone(), of_bias.clone()]);
        }
        let scales = self.before[0].as_dtype(Dtype::Float32)?;
        let biases = self.before[1].as_dtype(Dtype::Float32)?;
        let middle = Array::from_f32(((1 << self.scheme.bits) - 1) as f32 / 2.0);
        // The middle of a group is moved by `of_bias` alone.
        let stretched = scales.multiply(of_scale)?;
        let moved = scales.multiply(of_bias)?.subtract(&stretched)?;
        Ok([scales.add(stretched.divide(middle)?)?, biases.add(moved)?])
    }

    /// What a file will have of scales, with the gradient of `f32`: small numbers would vanish in `f16`.
    fn as_written(&self, array: &Array) -> Result<Array, Exception> {
        let off = array.as_dtype(self.dtype())?.as_dtype(Dtype::Float32)?.subtract(array)?;
        array.add(stop_gradient(&off)?)
    }
}
