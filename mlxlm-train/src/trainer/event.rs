//! What a training run says while it goes on. Nothing is printed here.

use std::path::PathBuf;

/// What happened in a training run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A batch was learned from.
    Iteration {
        /// The iteration, from 1.
        iteration: u64,
        /// The loss of the batch before the step.
        loss: f32,
        /// Targets that were learned in this run.
        trained_tokens: u64,
    },
    /// The means over the iterations since the last report.
    Report(Report),
    /// A batch of a validation was measured.
    Measured {
        /// Batches so far.
        done: usize,
        /// Batches of the validation.
        total: usize,
    },
    /// A validation is over.
    Validation {
        /// Iterations before it.
        iteration: u64,
        /// The mean loss.
        loss: f32,
        /// How long it took.
        seconds: f64,
    },
    /// A checkpoint was written.
    Saved {
        /// Iterations before it.
        iteration: u64,
        /// The adapters of this iteration.
        path: PathBuf,
    },
}

/// The means over some iterations.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The last of them.
    pub iteration: u64,
    /// The mean of the losses of the batches.
    pub train_loss: f32,
    /// The learning rate of the latest step.
    pub learning_rate: f64,
    /// The norm of the latest step's gradient, before it was clipped; absent while gradients are gathered for the first step.
    pub grad_norm: Option<f32>,
    /// Iterations in a second.
    pub iterations_per_second: f64,
    /// Targets learned in a second.
    pub tokens_per_second: f64,
    /// Targets learned in this run, also before it was resumed.
    pub trained_tokens: u64,
    /// The most memory that was used so far.
    pub peak_memory_bytes: usize,
    /// What the objective measures besides its loss, by name.
    pub measures: Vec<(&'static str, f32)>,
}
