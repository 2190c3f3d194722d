//! One iteration: the loss of a batch, its gradient, and with every so many of them a step of the optimizer.

use mlxlm_core::{Array, device, random, transforms};
use mlxlm_models::CausalLm;

use super::Trainer;
use crate::data::{Batch, Example, Packed, Preference, PreferenceBatch, Row};
use crate::optim::clip_by_global_norm;
use crate::{Objective, Result, log_likelihoods, loss};

/// Rows that a trainer learns from.
pub(super) trait Learn: Row {
    /// The loss of a batch, and what else the objective measures.
    fn losses(
        objective: Objective,
        model: &(dyn CausalLm + 'static),
        batch: &Self::Batch,
        reference: Option<&Array>,
    ) -> Result<Vec<Array>>;

    /// What the reference model says of a batch, for the objectives that hold the model to one.
    fn reference(model: &(dyn CausalLm + 'static), batch: &Self::Batch) -> Result<Option<Array>>;

    /// The targets of a batch.
    fn tokens(batch: &Self::Batch) -> u64;

    /// What a batch counts for in a mean over batches.
    fn weight(batch: &Self::Batch) -> f64;

    /// The tokens of a row that are learned, of the first `max_len`.
    fn learned(&self, max_len: usize) -> usize;
}

/// Rows of text, all of whose batches are of one kind.
trait Text: Row<Batch = Batch> {
    /// See [`Learn::learned`].
    fn targets(&self, max_len: usize) -> usize;
}

impl Text for Example {
    fn targets(&self, max_len: usize) -> usize {
        self.tokens.len().min(max_len).saturating_sub(self.start.max(1))
    }
}

impl Text for Packed {
    fn targets(&self, max_len: usize) -> usize {
        self.learned.iter().take(max_len).filter(|learned| **learned).count()
    }
}

impl<T: Text> Learn for T {
    fn losses(_: Objective, model: &(dyn CausalLm + 'static), batch: &Batch, _: Option<&Array>) -> Result<Vec<Array>> {
        Ok(vec![loss::mean(model, batch)?])
    }

    fn reference(_: &(dyn CausalLm + 'static), _: &Batch) -> Result<Option<Array>> {
        Ok(None)
    }

    fn tokens(batch: &Batch) -> u64 {
        batch.tokens as u64
    }

    fn weight(batch: &Batch) -> f64 {
        batch.tokens as f64
    }

    fn learned(&self, max_len: usize) -> usize {
        self.targets(max_len)
    }
}

impl Learn for Preference {
    fn losses(
        objective: Objective,
        model: &(dyn CausalLm + 'static),
        batch: &PreferenceBatch,
        reference: Option<&Array>,
    ) -> Result<Vec<Array>> {
        objective.preference_loss(model, batch, reference)
    }

    fn reference(model: &(dyn CausalLm + 'static), batch: &PreferenceBatch) -> Result<Option<Array>> {
        Ok(Some(log_likelihoods(model, batch)?))
    }

    fn tokens(batch: &PreferenceBatch) -> u64 {
        (batch.chosen.tokens + batch.rejected.tokens) as u64
    }

    fn weight(batch: &PreferenceBatch) -> f64 {
        f64::from(batch.chosen.inputs.dim(0))
    }

    fn learned(&self, max_len: usize) -> usize {
        self.chosen.learned(max_len).min(self.rejected.learned(max_len))
    }
}

/// What came of an iteration.
#[derive(Debug, Clone, Default)]
pub(super) struct Stepped {
    pub(super) loss: f32,
    pub(super) learning_rate: f64,
    /// Absent while gradients are gathered.
    pub(super) grad_norm: Option<f32>,
    pub(super) measures: Vec<(&'static str, f32)>,
}

impl Stepped {
    /// What is no number, if anything is.
    pub(super) fn broken(&self) -> Option<(&'static str, f32)> {
        let norm = self.grad_norm.map(|norm| ("norm of the gradient", norm));
        [("loss", self.loss)].into_iter().chain(norm).find(|(_, value)| !value.is_finite())
    }
}

impl Trainer<'_> {
    /// Learns from a batch; with `update` the optimizer makes a step along all gradients since its last one.
    ///
    /// If the loss or the gradient is no number, nothing of the model has changed.
    pub(super) fn step<T: Learn>(&mut self, batch: &T::Batch, update: bool) -> Result<Stepped> {
        // What dropout drops depends on the seed and the iteration alone.
        random::seed(self.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.state.iteration))?;
        let (objective, reference) = (self.options.objective, self.reference::<T>(batch)?);
        let loss = |model: &(dyn CausalLm + 'static)| T::losses(objective, model, batch, reference.as_ref());
        let blocks = self.options.grad_checkpoint;
        let (values, mut gradients) = self.trainable.value_and_grad_of(&*self.model, blocks, loss)?;
        if !self.pending.is_empty() {
            let sums = gradients.iter().zip(&self.pending).map(|(g, pending)| g.add(pending));
            gradients = sums.collect::<Result<_, _>>()?;
        }
        let mut stepped = Stepped { learning_rate: self.learning_rate(), ..Stepped::default() };
        if update {
            let gathered = self.options.grad_accumulation_steps;
            if gathered > 1 {
                let mean = |g: &Array| g.divide(Array::from_f32(gathered as f32).as_dtype(g.dtype())?);
                gradients = gradients.iter().map(mean).collect::<Result<_, _>>()?;
            }
            let most = self.options.max_grad_norm;
            let (clipped, norm) = clip_by_global_norm(&gradients, most.unwrap_or(f32::INFINITY))?;
            let along = if most.is_some() { clipped } else { gradients };
            let mut optimizer = self.optimizer.clone();
            let updated = optimizer.update(self.trainable.arrays(), &along, stepped.learning_rate as f32)?;
            let moments = optimizer.moments().iter().flatten();
            transforms::eval(values.iter().chain([&norm]).chain(&updated).chain(moments))?;
            stepped.read(&values)?;
            stepped.grad_norm = Some(number(&norm)?);
            if stepped.broken().is_none() {
                self.trainable.replace(&mut *self.model, updated)?;
                (self.optimizer, self.pending) = (optimizer, Vec::new());
            }
        } else {
            transforms::eval(values.iter().chain(&gradients))?;
            stepped.read(&values)?;
            self.pending = gradients;
        }
        if let Some(most) = self.options.clear_cache_threshold
            && device::cache_memory_bytes()? > most
        {
            device::clear_cache()?;
        }
        Ok(stepped)
    }

    /// The loss of a batch, without a gradient.
    pub(super) fn loss<T: Learn>(&mut self, batch: &T::Batch) -> Result<f32> {
        let reference = self.reference::<T>(batch)?;
        let values = T::losses(self.options.objective, &*self.model, batch, reference.as_ref())?;
        values.first().map_or(Ok(0.0), number)
    }

    /// The learning rate of the optimizer's next step.
    fn learning_rate(&self) -> f64 {
        self.options.schedule.at(self.optimizer.step() as f64)
    }

    /// What the model said of a batch before it was trained, if the objective asks for it.
    fn reference<T: Learn>(&mut self, batch: &T::Batch) -> Result<Option<Array>> {
        if !matches!(self.options.objective, Objective::Dpo { .. }) {
            return Ok(None);
        }
        let now = self.trainable.arrays().to_vec();
        self.trainable.replace(&mut *self.model, self.before.clone())?;
        let said = T::reference(&*self.model, batch).and_then(|said| {
            transforms::eval(&said)?;
            Ok(said)
        });
        self.trainable.replace(&mut *self.model, now)?;
        said
    }
}

impl Stepped {
    fn read(&mut self, values: &[Array]) -> Result<()> {
        let numbers = values.iter().map(number).collect::<Result<Vec<_>>>()?;
        let (loss, measures) = numbers.split_first().map_or((0.0, &[][..]), |(loss, rest)| (*loss, rest));
        self.loss = loss;
        self.measures = Objective::MEASURES.into_iter().zip(measures.iter().copied()).collect();
        Ok(())
    }
}

fn number(array: &Array) -> Result<f32> {
    Ok(array.try_item_exact::<f32>().map_err(mlxlm_core::Error::from)?)
}
