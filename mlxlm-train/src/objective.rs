//! What a training minimizes: the cross entropy of texts, or a loss of preferred over rejected answers.
//!
//! DPO is arXiv:2305.18290, ORPO arXiv:2403.07691. Unusual: the likelihood that ORPO adds its odds to is that of the learned tokens, as in the
//! paper; TRL takes it over the prompt too.

use mlxlm_core::{Array, Exception, ops};
use mlxlm_models::CausalLm;

use crate::data::{Batch, PreferenceBatch};
use crate::{Result, loss};

/// What is minimized.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Objective {
    /// Cross entropy of the next token.
    #[default]
    Sft,
    /// Direct preference optimization, against the model as it was before training.
    Dpo {
        /// How strongly the model is held to what it was.
        beta: f32,
    },
    /// Odds-ratio preference optimization.
    Orpo {
        /// The weight of the odds beside the cross entropy of the chosen answers; the paper's λ.
        beta: f32,
    },
}

impl Objective {
    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo { .. } => "dpo",
            Self::Orpo { .. } => "orpo",
        }
    }

    /// Its number, if it has one.
    pub const fn beta(self) -> Option<f32> {
        match self {
            Self::Sft => None,
            Self::Dpo { beta } | Self::Orpo { beta } => Some(beta),
        }
    }

    /// Whether it learns from pairs of answers.
    pub const fn needs_preferences(self) -> bool {
        !matches!(self, Self::Sft)
    }

    /// What [`preference_loss`](Self::preference_loss) returns behind the loss, by name.
    pub const MEASURES: [&'static str; 4] =
        ["rewards_chosen", "rewards_rejected", "rewards_margin", "rewards_accuracy"];

    /// The loss of pairs of answers, and the means of [`Self::MEASURES`] over them.
    ///
    /// # Shapes
    /// - `reference`: the sums of log-probabilities `[2 B]` of a model that is not trained, as [`log_likelihoods`] gives them; only DPO reads
    ///   it. Results: `[]` each, `f32`
    ///
    /// # Errors
    /// DPO without a reference.
    pub fn preference_loss(
        self,
        model: &(dyn CausalLm + 'static),
        batch: &PreferenceBatch,
        reference: Option<&Array>,
    ) -> Result<Vec<Array>> {
        let pairs = batch.chosen.inputs.dim(0);
        let sums = log_likelihoods(model, batch)?;
        let halves = |both: &Array| -> Result<(Array, Array)> {
            let halves = both.reshape(&[2, pairs])?;
            Ok((halves.take_axis(Array::from_int(0), 0)?, halves.take_axis(Array::from_int(1), 0)?))
        };
        let number = Array::from_f32;
        let (loss, rewards) = match self {
            Self::Orpo { beta } => {
                let (chosen, rejected) = halves(&sums)?;
                let (of_chosen, of_rejected) = (counts(&batch.chosen)?, counts(&batch.rejected)?);
                let mean_chosen = chosen.divide(ops::maximum(&of_chosen, number(1.0))?)?;
                let mean_rejected = rejected.divide(ops::maximum(&of_rejected, number(1.0))?)?;
                let likelihood = chosen.sum(None)?.divide(ops::maximum(&of_chosen.sum(None)?, number(1.0))?)?;
                let odds = odds(&mean_chosen)?.subtract(odds(&mean_rejected)?)?;
                let preferred = log_sigmoid(&odds)?.mean(None)?.multiply(number(beta))?;
                let rewards = [mean_chosen, mean_rejected].map(|mean| mean.multiply(number(beta)));
                (likelihood.add(preferred)?.negative()?, rewards)
            }
            Self::Dpo { .. } | Self::Sft => {
                let reference = reference.ok_or_else(|| Exception::custom("DPO needs a reference"))?;
                let ((chosen, rejected), (base_chosen, base_rejected)) = (halves(&sums)?, halves(reference)?);
                let beta = number(self.beta().unwrap_or(0.1));
                let rewards = [
                    chosen.subtract(base_chosen)?.multiply(&beta)?,
                    rejected.subtract(base_rejected)?.multiply(&beta)?,
                ];
                let preferred = log_sigmoid(&rewards[0].subtract(&rewards[1])?)?;
                (preferred.mean(None)?.negative()?, rewards.map(Ok))
            }
        };
        let [chosen, rejected] = rewards;
        let (chosen, rejected) = (chosen?, rejected?);
        let margin = chosen.subtract(&rejected)?;
        let right = margin.gt(number(0.0))?.as_dtype(mlxlm_core::Dtype::Float32)?;
        let mut results = vec![loss];
        for measure in [chosen, rejected, margin, right] {
            results.push(measure.mean(None)?);
        }
        Ok(results)
    }
}

/// The sums of the log-probabilities of the learned tokens of all chosen and then all rejected answers: `[2 B]`, `f32`.
pub fn log_likelihoods(model: &(dyn CausalLm + 'static), batch: &PreferenceBatch) -> Result<Array> {
    let both = [&batch.chosen, &batch.rejected].map(|part| loss::sums(model, part));
    let [chosen, rejected] = both;
    Ok(ops::concatenate(&[&chosen?, &rejected?], 0)?.negative()?)
}

/// The learned tokens of each row, `[B]`.
fn counts(batch: &Batch) -> Result<Array> {
    Ok(batch.mask.sum_axis(-1, false)?)
}

/// `log(p / (1 - p))` of log-probabilities.
fn odds(log_p: &Array) -> Result<Array> {
    let rest = ops::log1p(&ops::exp(log_p)?.negative()?)?;
    Ok(log_p.subtract(rest)?)
}

/// `log(1 / (1 + exp(-x)))`.
fn log_sigmoid(x: &Array) -> Result<Array> {
    Ok(ops::logaddexp(&x.negative()?, Array::from_f32(0.0))?.negative()?)
}
