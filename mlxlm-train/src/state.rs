//! A training run on disk, so that it can go on after a stop: parameters, moments and how far it came, in one safetensors
//! file that appears by rename. The numbers are metadata of the file.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::nn::Module;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};

use crate::optim::Optimizer;
use crate::{Error, Result, Trainable};

/// How far a run came.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrainingState {
    /// Steps made.
    pub step: u64,
    /// Time spent.
    pub elapsed_s: f64,
}

impl TrainingState {
    /// Writes the run.
    pub fn save(self, path: impl AsRef<Path>, trainable: &Trainable, optimizer: &Optimizer) -> Result<()> {
        let mut arrays = trainable.named();
        for (name, moments) in trainable.names().iter().zip(optimizer.moments()) {
            arrays.extend(moments.iter().enumerate().map(|(i, moment)| (moment_name(name, i), moment.clone())));
        }
        let metadata = BTreeMap::from([
            ("step".to_owned(), self.step.to_string()),
            ("elapsed_s".to_owned(), self.elapsed_s.to_string()),
        ]);
        Ok(save_safetensors(path, &arrays, &metadata)?)
    }

    /// Puts a run back into a model, its parameters and their optimizer.
    ///
    /// # Errors
    /// [`Error::Resume`] if the file is of another model or of another optimizer.
    pub fn load<M: Module + ?Sized>(
        path: impl AsRef<Path>,
        model: &mut M,
        trainable: &mut Trainable,
        optimizer: &mut Optimizer,
    ) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |why: String| Error::Resume { path: path.to_owned(), why };
        let file = SafetensorsFile::open(path)?;
        let metadata = file.metadata();
        let number = |key: &str| {
            let number = metadata.get(key).and_then(|text| text.parse::<f64>().ok());
            number.ok_or_else(|| wrong(format!("the metadata has no number `{key}`")))
        };
        let (step, elapsed_s) = (number("step")? as u64, number("elapsed_s")?);
        let mut arrays = file.arrays()?;
        let mut parameters = Vec::new();
        let mut moments = Vec::new();
        for (name, now) in trainable.names().iter().zip(trainable.arrays()) {
            let found =
                arrays.remove(name).filter(|array| array.shape() == now.shape() && array.dtype() == now.dtype());
            parameters.push(found.ok_or_else(|| wrong(format!("`{name}` is missing or of another shape")))?);
            moments.push((0..).map_while(|i| arrays.remove(&moment_name(name, i))).collect());
        }
        if let Some(name) = arrays.into_keys().next() {
            return Err(wrong(format!("`{name}` is not trained now")));
        }
        optimizer.resume(step, moments).map_err(|error| wrong(error.to_string()))?;
        trainable.replace(model, parameters)?;
        Ok(Self { step, elapsed_s })
    }
}

fn moment_name(parameter: &str, i: usize) -> String {
    format!("{parameter}/moment.{i}")
}
