//! The numbers of a training run, with the defaults of mlx-lm's trainer.

use crate::{Error, Objective, Result, Schedule};

/// The numbers of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerOptions {
    /// What is minimized.
    pub objective: Objective,
    /// Batches that are learned from.
    pub iters: u64,
    /// Rows in a batch.
    pub batch_size: usize,
    /// Tokens that are read of a row; what comes after them is cut off.
    pub max_seq_length: usize,
    /// Whether a row holds as many texts as fit into `max_seq_length` tokens, none of which sees another.
    pub packing: bool,
    /// The learning rate over the optimizer's steps.
    pub schedule: Schedule,
    /// Batches whose gradients make one step of the optimizer.
    pub grad_accumulation_steps: u64,
    /// The largest norm of a step's gradient; longer ones are scaled down.
    pub max_grad_norm: Option<f32>,
    /// LoRA+ (arXiv:2402.12354): how much faster the second factors of adapters learn than the first.
    pub lora_plus_ratio: Option<f32>,
    /// Whether the activations of a block are computed anew for its gradient, which saves their memory and costs time.
    pub grad_checkpoint: bool,
    /// Iterations between reports of the training loss.
    pub steps_per_report: u64,
    /// Iterations between validations.
    pub steps_per_eval: u64,
    /// Batches of a validation, spread over the rows; all if absent.
    pub val_batches: Option<usize>,
    /// Iterations between checkpoints.
    pub save_every: u64,
    /// What the order of batches and dropout are drawn from.
    pub seed: u64,
    /// Bytes that freed memory may come to before it is given back after a step; it is kept if absent.
    pub clear_cache_threshold: Option<usize>,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        Self {
            objective: Objective::Sft,
            iters: 1000,
            batch_size: 4,
            max_seq_length: 2048,
            packing: false,
            schedule: Schedule::Constant(1e-5),
            grad_accumulation_steps: 1,
            max_grad_norm: None,
            lora_plus_ratio: None,
            grad_checkpoint: false,
            steps_per_report: 10,
            steps_per_eval: 200,
            val_batches: Some(25),
            save_every: 100,
            seed: 0,
            clear_cache_threshold: None,
        }
    }
}

impl TrainerOptions {
    /// Refuses numbers that no training can have.
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("batch_size", self.batch_size as u64),
            ("grad_accumulation_steps", self.grad_accumulation_steps),
            ("steps_per_report", self.steps_per_report),
            ("steps_per_eval", self.steps_per_eval),
            ("save_every", self.save_every),
        ];
        let wrong = |name, value: String, expected| Err(Error::Setting { name, value, expected });
        if let Some((name, value)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return wrong(name, value.to_string(), "at least 1");
        }
        if self.max_seq_length < 2 {
            return wrong("max_seq_length", self.max_seq_length.to_string(), "at least 2");
        }
        if self.packing && self.objective.needs_preferences() {
            return wrong("packing", "true".into(), "false, since pairs of answers are not packed");
        }
        let positive = [("max_grad_norm", self.max_grad_norm), ("lora_plus_ratio", self.lora_plus_ratio)];
        for (name, value) in positive.into_iter().chain([("beta", self.objective.beta())]) {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value <= 0.0) {
                return wrong(name, value.to_string(), "a number above 0");
            }
        }
        Ok(())
    }
}
