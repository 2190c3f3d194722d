//! From gradients to new parameters: the update rules of `mlx.optimizers` under their names and with their defaults.
//!
//! [`Optimizer`] keeps what a rule remembers of each parameter; the learning rate of each step comes from the caller.

mod adafactor;
mod adam;
mod clip;
mod muon;
mod named;
mod sgd;

pub use adafactor::Adafactor;
pub use adam::Adam;
pub use clip::clip_by_global_norm;
pub use muon::Muon;
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
    /// Momentum made orthogonal.
    Muon(Muon),
    /// Adam with less to remember (arXiv:1804.04235).
    Adafactor(Adafactor),
}

impl Rule {
    /// What the rule remembers of `p` before the first step.
    fn moments(self, p: &Array) -> Result<Vec<Array>, Exception> {
        let zeros = |count: usize| (0..count).map(|_| ops::zeros_like(p)).collect();
        match self {
            Self::Adam(_) => zeros(2),
            Self::Sgd(rule) => zeros(usize::from(rule.momentum > 0.0)),
            Self::Muon(_) => zeros(1),
            Self::Adafactor(rule) => rule.moments(p),
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
    /// Factors of the learning rate; all one if empty.
    factors: Vec<f32>,
}

impl Optimizer {
    /// An optimizer that has made no step yet.
    pub fn new(rule: Rule) -> Self {
        Self { rule, step: 0, moments: Vec::new(), factors: Vec::new() }
    }

    /// The steps made so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What is remembered of each parameter, to evaluate and to save.
    pub fn moments(&self) -> &[Vec<Array>] {
        &self.moments
    }

    /// Multiplies the learning rate of each parameter by a factor of its own, in the order of the parameters: what LoRA+ does
    /// (arXiv:2402.12354).
    #[must_use]
    pub fn with_factors(self, factors: Vec<f32>) -> Self {
        Self { factors, ..self }
    }

    /// Continues where another optimizer of the same rule was after `step` steps with these parameters.
    ///
    /// # Errors
    /// [`Error::Moments`] if the moments of a parameter are not those that the rule keeps of it.
    pub fn resume(&mut self, parameters: &[Array], step: u64, moments: Vec<Vec<Array>>) -> Result<()> {
        for (p, found) in parameters.iter().zip(&moments) {
            let expected = self.rule.moments(p)?;
            let is_like = |(a, b): (&Array, &Array)| a.shape() == b.shape() && a.dtype() == b.dtype();
            if found.len() != expected.len() || !found.iter().zip(&expected).all(is_like) {
                return Err(Error::Moments { got: found.len(), expected: expected.len() });
            }
        }
        (self.step, self.moments) = (step, moments);
        Ok(())
    }

    /// The parameters after a step along `gradients`, not computed yet. Call with the same parameters each time.
    pub fn update(&mut self, parameters: &[Array], gradients: &[Array], learning_rate: f32) -> Result<Vec<Array>> {
        self.step += 1;
        if self.moments.is_empty() {
            self.moments = parameters.iter().map(|p| self.rule.moments(p)).collect::<Result<_, _>>()?;
        }
        let mut updated = Vec::with_capacity(parameters.len());
        for (i, ((p, g), moments)) in parameters.iter().zip(gradients).zip(&mut self.moments).enumerate() {
            let rate = learning_rate * self.factors.get(i).copied().unwrap_or(1.0);
            updated.push(match &self.rule {
                Rule::Adam(rule) => rule.update(self.step, p, g, rate, moments)?,
                Rule::Sgd(rule) => rule.update(p, g, rate, moments)?,
                Rule::Muon(rule) => rule.update(p, g, rate, moments)?,
                Rule::Adafactor(rule) => rule.update(self.step, p, g, rate, moments)?,
            });
        }
        Ok(updated)
    }
}

/// A number in the type of `like`, so that it does not widen it.
fn scalar(value: f32, like: &Array) -> Result<Array, Exception> {
    Array::from_f32(value).as_dtype(like.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds three steps along growing gradients against the parameters that MLX's optimizer reaches.
    fn check(rule: Rule, expected: [f32; 4]) {
        let mut optimizer = Optimizer::new(rule);
        let mut parameters = vec![Array::from_slice(&[1_f32, -2.0, 3.0, 0.5], &[4])];
        for step in 1..=3_u8 {
            let gradient = Array::from_slice(&[0.1_f32, -0.2, 0.3, 4.0].map(|g| g * f32::from(step)), &[4]);
            parameters = optimizer.update(&parameters, &[gradient], 0.1).unwrap();
        }
        let got = parameters[0].try_as_slice::<f32>().unwrap();
        // MLX takes the powers of the betas in `f32`.
        assert!(
            got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 4e-6),
            "{rule:?}: {got:?}, expected {expected:?}"
        );
        assert_eq!(optimizer.step(), 3);
    }

    #[test]
    fn steps_are_those_of_mlx() {
        let adam = Adam::default();
        check(Rule::Adam(adam), [-0.200_621_9, -0.799_377_1, 1.799_376_8, -0.700_623_8]);
        let corrected = Adam { bias_correction: true, ..adam };
        check(Rule::Adam(corrected), [0.707_683_7, -1.707_683_7, 2.707_683_6, 0.207_683_7]);
        let slow = Adam { betas: [0.8, 0.95], eps: 1e-3, ..adam };
        check(Rule::Adam(slow), [0.678_938_7, -1.675_217, 2.673_951_4, 0.171_575_2]);
        check(Rule::Adam(Adam::with_weight_decay()), [-0.202_576_6, -0.794_425_3, 1.791_428_2, -0.701_08]);
        let decaying = Adam { weight_decay: 0.1, ..corrected };
        check(Rule::Adam(decaying), [0.680_937_9, -1.651_236_9, 2.621_536, 0.195_788_4]);
    }

    #[test]
    fn sgd_is_that_of_mlx() {
        let plain = Sgd::default();
        check(Rule::Sgd(plain), [0.94, -1.88, 2.82, -1.9]);
        let momentum = Sgd { momentum: 0.9, ..plain };
        check(Rule::Sgd(momentum), [0.904_9, -1.809_8, 2.714_7, -3.304]);
        let damped = Sgd { dampening: 0.5, weight_decay: 0.1, ..momentum };
        check(Rule::Sgd(damped), [0.924_664_8, -1.849_329_6, 2.773_994_2, -1.410_17]);
        check(Rule::Sgd(Sgd { nesterov: true, ..momentum }), [0.854_41, -1.708_82, 2.563_23, -5.323_6]);
    }

    #[test]
    fn moments_of_another_rule_are_refused() {
        let mut optimizer = Optimizer::new(Rule::Sgd(Sgd::default()));
        let p = Array::from_f32(0.0);
        let error = optimizer.resume(&[p.clone()], 3, vec![vec![p]]).unwrap_err();
        assert_eq!(error.to_string(), "a parameter has 1 moments, and the optimizer keeps 0 of its shape");
    }
}
