//! A model whose matrices are functions of scales and biases.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::nn::{self, Matrix};
use mlxlm_core::quant::{self, Mode, Packed, Scheme};
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};
use mlxlm_core::{Array, Dtype, Exception, ops, transforms};
use mlxlm_models::CausalLm;
use mlxlm_train::optim::Optimizer;

use crate::{Error, Result};

/// A matrix without its scales.
#[derive(Debug)]
struct Codes {
    path: String,
    scheme: Scheme,
    shape: Vec<i32>,
    dtype: Dtype,
    /// As they are packed.
    packed: Array,
    /// As numbers, by group: `[…, out, in / group, group]`.
    numbers: Array,
}

/// The affine matrices of a model that have less than 8 bits, with their scales and biases in `f32`.
#[derive(Debug)]
pub struct Student {
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
        let (mut leaves, mut arrays, mut failed) = (Vec::new(), Vec::new(), None);
        model.walk_mut("", &mut |path, mut leaf| {
            let Some(Matrix::Packed(packed, scheme)) = leaf.matrix().as_deref().cloned() else { return };
            let Packed { biases: Some(biases), .. } = &packed else { return };
            if scheme.mode != Mode::Affine || scheme.bits >= 8 {
                return;
            }
            match codes(path, &packed, scheme) {
                Ok(codes) => {
                    let wide = [&packed.scales, biases].map(|array| array.as_dtype(Dtype::Float32));
                    match wide {
                        [Ok(scales), Ok(biases)] => {
                            leaves.push(codes);
                            arrays.extend([scales, biases]);
                        }
                        [Err(exception), _] | [_, Err(exception)] => failed = Some(exception),
                    }
                }
                Err(exception) => failed = Some(exception),
            }
        });
        match failed {
            Some(exception) => Err(exception.into()),
            None if leaves.is_empty() => Err(Error::NothingToTrain),
            None => Ok(Self { leaves, arrays }),
        }
    }

    /// Scales and biases, in turns.
    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// Gives the matrices of the model the values that they have with these scales and biases.
    pub(super) fn put(&self, model: &mut dyn CausalLm, arrays: &[Array]) -> Result<()> {
        let (mut next, mut failed) = (self.leaves.iter().zip(arrays.chunks_exact(2)).peekable(), None);
        model.walk_mut("", &mut |path, mut leaf| {
            let Some(matrix) = leaf.matrix() else { return };
            let Some((codes, arrays)) = next.next_if(|(codes, _)| codes.path == path) else { return };
            match codes.values(&arrays[0], &arrays[1]) {
                Ok(values) => *matrix = Matrix::Dense(values),
                Err(exception) => failed = Some(exception),
            }
        });
        failed.map_or(Ok(()), |exception| Err(exception.into()))
    }

    /// New scales and biases.
    pub(super) fn replace(&mut self, model: &mut dyn CausalLm, arrays: Vec<Array>) -> Result<()> {
        self.put(model, &arrays)?;
        self.arrays = arrays;
        Ok(())
    }

    /// What `loss` makes of the model, and the gradient of the first array that it returns with respect to scales and biases.
    pub(super) fn value_and_grad(
        &self,
        model: &mut dyn CausalLm,
        mut loss: impl FnMut(&dyn CausalLm) -> Result<Vec<Array>>,
    ) -> Result<(Vec<Array>, Vec<Array>)> {
        let mut failed = None;
        let numbers: Vec<i32> = (0..self.arrays.len() as i32).collect();
        let traced = |traced: &[Array]| {
            self.put(model, traced).and_then(|()| nn::train(|| loss(model))).map_err(|error| {
                let exception = Exception::custom(error.to_string());
                failed = Some(error);
                exception
            })
        };
        let result = transforms::value_and_grad_with_argnums(traced, numbers.as_slice())(&self.arrays);
        // Traced arrays must not stay in the model.
        self.put(model, &self.arrays)?;
        failed.map_or_else(|| Ok(result?), Err)
    }

    /// Packs the matrices again, with the scales and biases that they have now.
    pub(super) fn pack(&self, model: &mut dyn CausalLm) -> Result<()> {
        let (mut next, mut failed) = (self.leaves.iter().zip(self.arrays.chunks_exact(2)).peekable(), None);
        model.walk_mut("", &mut |path, mut leaf| {
            let Some(matrix) = leaf.matrix() else { return };
            let Some((codes, arrays)) = next.next_if(|(codes, _)| codes.path == path) else { return };
            match [&arrays[0], &arrays[1]].map(|array| array.as_dtype(codes.dtype)) {
                [Ok(scales), Ok(biases)] => {
                    let packed = Packed { weight: codes.packed.clone(), scales, biases: Some(biases) };
                    *matrix = Matrix::Packed(packed, codes.scheme);
                }
                [Err(exception), _] | [_, Err(exception)] => failed = Some(exception),
            }
        });
        failed.map_or(Ok(()), |exception: Exception| Err(exception.into()))
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
        self.leaves.iter().flat_map(|codes| ["scales", "biases"].map(|name| format!("{}.{name}", codes.path))).collect()
    }
}

fn codes(path: &str, packed: &Packed, scheme: Scheme) -> Result<Codes, Exception> {
    let dtype = packed.scales.dtype();
    let plain = Packed {
        weight: packed.weight.clone(),
        scales: ops::ones_like(&packed.scales)?,
        biases: Some(ops::zeros_like(&packed.scales)?),
    };
    // Codes are below 256, which every type of weights has.
    let numbers = quant::dequantize(&plain, scheme, Some(dtype))?;
    let shape = numbers.shape().to_vec();
    let grouped = [packed.scales.shape(), &[scheme.group_size]].concat();
    let numbers = numbers.reshape(&grouped)?;
    transforms::eval([&numbers])?;
    Ok(Codes { path: path.to_owned(), scheme, shape, dtype, packed: packed.weight.clone(), numbers })
}

impl Codes {
    fn values(&self, scales: &Array, biases: &Array) -> Result<Array, Exception> {
        let spread = |array: &Array| array.as_dtype(self.dtype)?.expand_dims(-1);
        self.numbers.multiply(spread(scales)?)?.add(spread(biases)?)?.reshape(&self.shape)
    }
}
