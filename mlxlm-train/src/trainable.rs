//! The parameters of a model that are trained, and the gradient of a loss with respect to them.
//!
//! Unusual: MLX differentiates functions of arrays, and a model is not one. So while the gradient is built, the traced
//! arrays lie in the model in place of the real ones, which come back whatever happens.

use mlxlm_core::nn::{Leaf, Module};
use mlxlm_core::{Array, Exception, transforms};

use crate::{Error, Result};

/// Some of the parameters of a model, by name, in the order of the model. All others stay as they are.
#[derive(Debug, Clone)]
pub struct Trainable {
    names: Vec<String>,
    arrays: Vec<Array>,
}

impl Trainable {
    /// The parameters that `choose` wants, given name and value. Packed weights cannot be trained and are left out.
    pub fn collect<M: Module + ?Sized>(model: &mut M, choose: impl Fn(&str, &Array) -> bool) -> Self {
        let (mut names, mut arrays) = (Vec::new(), Vec::new());
        each(model, &mut |name, array| {
            if array.dtype().is_float() && choose(&name, array) {
                names.push(name);
                arrays.push(array.clone());
            }
        });
        Self { names, arrays }
    }

    /// The names of the parameters.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The values of the parameters, in the order of their names.
    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.arrays.iter().map(Array::size).sum()
    }

    /// The parameters with their names, as a file takes them.
    pub fn named(&self) -> Vec<(String, Array)> {
        self.names.iter().cloned().zip(self.arrays.iter().cloned()).collect()
    }

    /// New values, here and in the model.
    pub fn replace<M: Module + ?Sized>(&mut self, model: &mut M, arrays: Vec<Array>) -> Result<()> {
        self.write(model, &arrays)?;
        self.arrays = arrays;
        Ok(())
    }

    /// What `loss` makes of the model, and the gradient of the first array that it returns, a scalar.
    ///
    /// Nothing is computed yet.
    ///
    /// # Errors
    /// Those of `loss`; [`Error::Parameters`] if the model is not the one that these parameters come from.
    pub fn value_and_grad<M: Module + ?Sized>(
        &self,
        model: &mut M,
        mut loss: impl FnMut(&mut M) -> Result<Vec<Array>>,
    ) -> Result<(Vec<Array>, Vec<Array>)> {
        let mut failed = None;
        let numbers: Vec<i32> = (0..self.arrays.len() as i32).collect();
        let traced = |traced: &[Array]| {
            self.write(model, traced).and_then(|()| loss(model)).map_err(|error| {
                let exception = Exception::custom(error.to_string());
                failed = Some(error);
                exception
            })
        };
        let result = transforms::value_and_grad_with_argnums(traced, numbers.as_slice())(&self.arrays);
        self.write(model, &self.arrays)?;
        failed.map_or_else(|| Ok(result?), Err)
    }

    /// Puts `arrays` into the model.
    fn write<M: Module + ?Sized>(&self, model: &mut M, arrays: &[Array]) -> Result<()> {
        let mut written = 0;
        each(model, &mut |name, array| {
            if self.names.get(written).is_some_and(|next| *next == name) {
                if let Some(value) = arrays.get(written) {
                    *array = value.clone();
                    written += 1;
                }
            }
        });
        let expected = self.names.len();
        if written == expected { Ok(()) } else { Err(Error::Parameters { got: written, expected }) }
    }
}

fn each<M: Module + ?Sized>(model: &mut M, visit: &mut dyn FnMut(String, &mut Array)) {
    model.walk("", &mut |path, leaf: Leaf<'_>| leaf.parameters(path, visit));
}
