//! The parameters of a model that are trained, and the gradient of a loss with respect to them.
//!
//! Unusual: MLX differentiates functions of arrays, and a model is not one. So while the gradient is built, the traced
//! arrays lie in the model in place of the real ones, which come back whatever happens.

use mlxlm_core::nn::{self, LeafMut, Module};
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

    /// What `loss` makes of the model, and the gradient of the first array that it returns, a scalar; `loss` runs as [training](nn::train).
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
            self.write(model, traced).and_then(|()| nn::train(|| loss(model))).map_err(|error| {
                let exception = Exception::custom(error.to_string());
                failed = Some(error);
                exception
            })
        };
        let result = transforms::value_and_grad_with_argnums(traced, numbers.as_slice())(&self.arrays);
        self.write(model, &self.arrays)?;
        failed.map_or_else(|| Ok(result?), Err)
    }

    /// As [`value_and_grad`](Self::value_and_grad), of a model that is only borrowed: [`nn::checkpoint`] saves memory within `loss`, and
    /// with `blocks` every block is computed again for its gradient.
    ///
    /// # Errors
    /// Those of `loss`; [`Error::Parameters`] if the model is not the one that these parameters come from.
    pub fn value_and_grad_of<M: Module + ?Sized>(
        &self,
        model: &M,
        blocks: bool,
        loss: impl FnMut(&M) -> Result<Vec<Array>>,
    ) -> Result<(Vec<Array>, Vec<Array>)> {
        let mut trained = Vec::with_capacity(self.names.len());
        for (name, handle) in nn::handles(model) {
            if self.names.get(trained.len()).is_some_and(|next| *next == name) {
                trained.push(handle);
            }
        }
        let expected = self.names.len();
        if trained.len() != expected {
            return Err(Error::Parameters { got: trained.len(), expected });
        }
        nn::value_and_grad(model, &trained, blocks, loss)
    }

    /// Puts `arrays` into the model.
    fn write<M: Module + ?Sized>(&self, model: &mut M, arrays: &[Array]) -> Result<()> {
        let mut written = 0;
        each(model, &mut |name, array| {
            if self.names.get(written).is_some_and(|next| *next == name)
                && let Some(value) = arrays.get(written)
            {
                *array = value.clone();
                written += 1;
            }
        });
        let expected = self.names.len();
        if written == expected { Ok(()) } else { Err(Error::Parameters { got: written, expected }) }
    }
}

fn each<M: Module + ?Sized>(model: &mut M, visit: &mut dyn FnMut(String, &mut Array)) {
    model.walk_mut("", &mut |path, leaf: LeafMut<'_>| leaf.parameters(path, visit));
}

#[cfg(test)]
mod tests {
    use mlxlm_core::ops;

    use super::*;
    use crate::data::Batch;
    use crate::loss;
    use crate::optim::{Adam, Optimizer, Rule};
    use crate::testing::tiny_llama;

    fn mean_loss(model: &dyn mlxlm_models::CausalLm, batch: &Batch) -> Result<Array> {
        let logits = model.forward(&batch.inputs, None)?;
        let (sum, count) = loss::cross_entropy(&logits, &batch.targets, &batch.mask)?;
        Ok(sum.divide(count)?)
    }

    fn batch() -> Batch {
        Batch::new(&[vec![3, 1, 4, 1, 5, 9, 2, 6], vec![5, 3, 5, 8, 9]], 7)
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (mut model, batch) = (tiny_llama(1), batch());
        let trainable = Trainable::collect(&mut *model, |_, _| true);
        let (_, gradients) = trainable.value_and_grad(&mut *model, |m| Ok(vec![mean_loss(m, &batch)?])).unwrap();
        for (i, (name, gradient)) in trainable.names().iter().zip(&gradients).enumerate() {
            // Along the gradient itself the loss must change by the square of its norm.
            let value = |step: f32, model: &mut Box<dyn mlxlm_models::CausalLm>| {
                let mut moved = trainable.arrays().to_vec();
                moved[i] = moved[i].add(gradient.multiply(Array::from_f32(step)).unwrap()).unwrap();
                trainable.write(&mut **model, &moved).unwrap();
                let value = mean_loss(&**model, &batch).unwrap().try_item_exact::<f32>().unwrap();
                trainable.write(&mut **model, trainable.arrays()).unwrap();
                value
            };
            let square = ops::square(gradient).unwrap().sum(None).unwrap().try_item_exact::<f32>().unwrap();
            let step = 0.02 / square.sqrt();
            let slope = (value(step, &mut model) - value(-step, &mut model)) / (2.0 * step);
            assert!((slope - square).abs() < 0.02 * square + 1e-4, "{name}: {slope}, expected {square}");
        }
    }

    /// Blocks that are computed again, and logits that exist in chunks, give the same gradients.
    #[test]
    fn forgetting_changes_no_gradient() {
        let (mut model, batch) = (tiny_llama(6), batch());
        let trainable = Trainable::collect(&mut *model, |_, _| true);
        let values = |(values, gradients): (Vec<Array>, Vec<Array>)| -> Vec<Vec<f32>> {
            values.iter().chain(&gradients).map(|array| array.try_as_slice::<f32>().unwrap().to_vec()).collect()
        };
        let plain = values(trainable.value_and_grad(&mut *model, |m| Ok(vec![mean_loss(m, &batch)?])).unwrap());
        for (blocks, chunk) in [(false, 256), (true, 256), (false, 3), (true, 5)] {
            let loss = |model: &(dyn mlxlm_models::CausalLm + 'static)| {
                Ok(vec![loss::sums_in_chunks(model, &batch, chunk)?.sum(None)?.divide(Array::from_f32(11.0))?])
            };
            let found = values(trainable.value_and_grad_of(&*model, blocks, loss).unwrap());
            assert_eq!(found.len(), plain.len());
            for (found, plain) in found.iter().zip(&plain) {
                let largest = plain.iter().fold(0_f32, |most, value| most.max(value.abs()));
                let off = found.iter().zip(plain).map(|(a, b)| (a - b).abs()).fold(0_f32, f32::max);
                assert!(off <= 1e-5 * largest + 1e-7, "{blocks} {chunk}: off by {off} of {largest}");
            }
        }
    }

    #[test]
    fn a_tiny_batch_is_learned_by_heart() {
        let (mut model, batch) = (tiny_llama(2), batch());
        let mut trainable = Trainable::collect(&mut *model, |_, _| true);
        let mut optimizer = Optimizer::new(Rule::Adam(Adam::default()));
        for _ in 0..60 {
            let (_, gradients) = trainable.value_and_grad(&mut *model, |m| Ok(vec![mean_loss(m, &batch)?])).unwrap();
            let updated = optimizer.update(trainable.arrays(), &gradients, 1e-2).unwrap();
            transforms::eval(updated.iter().chain(optimizer.moments().iter().flatten())).unwrap();
            trainable.replace(&mut *model, updated).unwrap();
        }
        let left = mean_loss(&*model, &batch).unwrap().try_item_exact::<f32>().unwrap();
        assert!(left < 0.1, "{left}");
    }

    #[test]
    fn only_chosen_parameters_are_trained() {
        let (mut model, batch) = (tiny_llama(3), batch());
        let trainable = Trainable::collect(&mut *model, |name, _| name.ends_with("q_proj.weight"));
        assert_eq!(
            trainable.names(),
            ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"]
        );
        assert_eq!(trainable.count(), 2 * 16 * 16);
        let (_, gradients) = trainable.value_and_grad(&mut *model, |m| Ok(vec![mean_loss(m, &batch)?])).unwrap();
        assert_eq!(gradients.len(), 2);
    }

    #[test]
    fn a_failing_loss_is_returned_and_leaves_the_model_as_it_was() {
        let (mut model, batch) = (tiny_llama(4), batch());
        let trainable = Trainable::collect(&mut *model, |_, _| true);
        let before = mean_loss(&*model, &batch).unwrap().try_item_exact::<f32>().unwrap();
        let failing = trainable.value_and_grad(&mut *model, |_| Err(Error::Parameters { got: 7, expected: 8 }));
        assert!(matches!(failing, Err(Error::Parameters { got: 7, expected: 8 })));
        let after = mean_loss(&*model, &batch).unwrap().try_item_exact::<f32>().unwrap();
        assert_eq!(after.to_bits(), before.to_bits());
    }

    #[test]
    fn another_model_is_refused() {
        let mut model = tiny_llama(5);
        let mut trainable = Trainable::collect(&mut *model, |_, _| true);
        trainable.names[0] = "elsewhere".into();
        let error = trainable.write(&mut *model, &trainable.arrays.clone()).unwrap_err();
        assert!(matches!(error, Error::Parameters { got: 0, expected: 20 }), "{error}");
    }
}
