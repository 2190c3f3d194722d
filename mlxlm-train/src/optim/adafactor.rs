//! Adafactor (arXiv:1804.04235) as in `mlx.optimizers`: squared gradients are remembered as their means over rows and columns.
//!
//! Unusual: with `relative_step`, the default there as here, the learning rate of the caller has no effect.

use mlxlm_core::{Array, Exception, ops};
use serde::Deserialize;

use super::scalar;

/// The numbers of Adafactor.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adafactor {
    /// Added to squared gradients, and the least size that a parameter is taken to have.
    pub eps: [f32; 2],
    /// The most that the root mean square of an update may be.
    pub clip_threshold: f32,
    /// The mean of squared gradients keeps `1 - step ^ decay_rate`.
    pub decay_rate: f32,
    /// How much of the mean update a step keeps; none is remembered if absent.
    pub beta_1: Option<f32>,
    /// Share of a parameter, times the learning rate, that each step takes away.
    pub weight_decay: f32,
    /// Whether the rate grows with the root mean square of the parameter.
    pub scale_parameter: bool,
    /// Whether the rate follows from the step alone.
    pub relative_step: bool,
    /// Whether that rate begins near zero.
    pub warmup_init: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta_1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl Adafactor {
    /// What is remembered of `p` before the first step: means of rows and columns of a matrix, all of a vector, and the mean update.
    pub(super) fn moments(&self, p: &Array) -> Result<Vec<Array>, Exception> {
        let zeros = |shape: &[i32]| ops::zeros_dtype(shape, p.dtype());
        let mut moments = match p.shape() {
            &[ref before @ .., rows, columns] => {
                vec![zeros(&[before, &[rows]].concat())?, zeros(&[before, &[columns]].concat())?]
            }
            shape => vec![zeros(shape)?],
        };
        if self.beta_1.is_some() {
            moments.push(zeros(p.shape())?);
        }
        Ok(moments)
    }

    /// One step of the parameter `p` along `g`; `step` counts from 1.
    pub(super) fn update(
        &self,
        step: u64,
        p: &Array,
        g: &Array,
        learning_rate: f32,
        moments: &mut [Array],
    ) -> Result<Array, Exception> {
        let rate = self.rate(step, p, learning_rate)?;
        let beta = 1.0 - (step as f32).powf(self.decay_rate);
        let mean = |kept: &Array, fresh: &Array| {
            kept.multiply(scalar(beta, kept)?)?.add(fresh.multiply(scalar(1.0 - beta, fresh)?)?)
        };
        let squares = ops::square(g)?.add(scalar(self.eps[0], g)?)?;
        let (second, first) = moments.split_at_mut(if g.ndim() >= 2 { 2 } else { 1 });
        let mut update = match second {
            [rows, columns] => {
                *rows = mean(rows, &squares.mean_axis(-1, false)?)?;
                *columns = mean(columns, &squares.mean_axis(-2, false)?)?;
                let of_rows = ops::rsqrt(&rows.divide(rows.mean_axis(-1, true)?)?)?;
                let factors = of_rows.expand_dims(-1)?.multiply(ops::rsqrt(&*columns)?.expand_dims(-2)?)?;
                factors.multiply(g)?
            }
            [all] => {
                *all = mean(all, &squares)?;
                ops::rsqrt(&*all)?.multiply(g)?
            }
            _ => return Err(Exception::custom("Adafactor keeps one or two means of squares")),
        };
        let over = rms(&update)?.divide(scalar(self.clip_threshold, &update)?)?;
        update = update.divide(ops::maximum(&over, scalar(1.0, &update)?)?)?.multiply(&rate)?;
        if let (Some(beta), [kept]) = (self.beta_1, first) {
            *kept = kept.multiply(scalar(beta, kept)?)?.add(update.multiply(scalar(1.0 - beta, &update)?)?)?;
            update = kept.clone();
        }
        let p = match self.weight_decay {
            0.0 => p.clone(),
            decay => p.add(p.multiply(rate.multiply(scalar(-decay, &rate)?)?)?)?,
        };
        p.subtract(update)
    }

    /// The rate of a step, in the type of `p`.
    fn rate(&self, step: u64, p: &Array, learning_rate: f32) -> Result<Array, Exception> {
        let step = step as f32;
        let rate = match (self.relative_step, self.warmup_init) {
            (false, _) => learning_rate,
            (true, true) => (1e-6 * step).min(step.sqrt().recip()),
            (true, false) => 1e-2_f32.min(step.sqrt().recip()),
        };
        let rate = scalar(rate, p)?;
        match self.scale_parameter {
            true => ops::maximum(scalar(self.eps[1], p)?, rms(p)?)?.multiply(rate),
            false => Ok(rate),
        }
    }
}

/// The root of the mean square.
fn rms(x: &Array) -> Result<Array, Exception> {
    ops::sqrt(&ops::square(x)?.mean(None)?)
}
