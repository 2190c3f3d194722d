//! From gradients to new parameters: the update rules of `mlx.optimizers` under their names and with their defaults.
//!
//! [`Optimizer`] keeps what a rule remembers of each parameter; the learning rate of each step comes from the caller.

mod adam;
mod clip;
mod sgd;

pub use adam::Adam;
pub use clip::clip_by_global_norm;
pub use sgd::Sgd;

use mlxlm_core::{Array, Exception, ops};

use crate::{Error, Result};

/// How a gradient changes a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Adam (arXiv:1412.6980), and with a weight decay AdamW (arXiv:1711.05101).
    Adam(Adam),
    /// Stochastic gradient descent, with or without momentum.
    Sgd(Sgd),
}

impl Rule {
    /// How many arrays the rule keeps for each parameter.
    fn moments(self) -> usize {
        match self {
            Self::Adam(_) => 2,
            Self::Sgd(rule) => usize::from(rule.momentum > 0.0),
        }
    }
}

/// A rule and what it remembers.
#[derive(Debug, Clone)]
pub struct Optimizer {
    rule: Rule,
    step: u64,
    /// For each parameter, the moments that the rule keeps; empty before the first step.
    moments: Vec<Vec<Array>>,
}

impl Optimizer {
    /// An optimizer that has made no step yet.
    pub fn new(rule: Rule) -> Self {
        Self { rule, step: 0, moments: Vec::new() }
    }

    /// The steps made so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What is remembered of each parameter, to evaluate and to save.
    pub fn moments(&self) -> &[Vec<Array>] {
        &self.moments
    }

    /// Continues where another optimizer of the same rule was after `step` steps.
    ///
    /// # Errors
    /// [`Error::Parameters`] if a parameter has another number of moments than the rule keeps.
    pub fn resume(&mut self, step: u64, moments: Vec<Vec<Array>>) -> Result<()> {
        let expected = self.rule.moments();
        if let Some(odd) = moments.iter().find(|of_one| of_one.len() != expected) {
            return Err(Error::Parameters { got: odd.len(), expected });
        }
        (self.step, self.moments) = (step, moments);
        Ok(())
    }

    /// The parameters after a step along `gradients`, not computed yet. Call with the same parameters each time.
    pub fn update(&mut self, parameters: &[Array], gradients: &[Array], learning_rate: f32) -> Result<Vec<Array>> {
        self.step += 1;
        if self.moments.is_empty() {
            let zeros = |p: &Array| (0..self.rule.moments()).map(|_| ops::zeros_like(p)).collect::<Result<_, _>>();
            self.moments = parameters.iter().map(zeros).collect::<Result<_, _>>()?;
        }
        let mut updated = Vec::with_capacity(parameters.len());
        for ((p, g), moments) in parameters.iter().zip(gradients).zip(&mut self.moments) {
            updated.push(match &self.rule {
                Rule::Adam(rule) => rule.update(self.step, p, g, learning_rate, moments)?,
                Rule::Sgd(rule) => rule.update(p, g, learning_rate, moments)?,
            });
        }
        Ok(updated)
    }
}

/// A number in the type of `like`, so that it does not widen it.
fn scalar(value: f32, like: &Array) -> Result<Array, Exception> {
    Array::from_f32(value).as_dtype(like.dtype())
}
