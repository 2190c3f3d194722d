//! Training: optimizers, schedules, losses and data, for fine-tuning and for small models from scratch.
//!
//! - [`Trainable`] holds the parameters that are trained and differentiates a loss with respect to them.
//! - [`Optimizer`](optim::Optimizer) turns gradients into new parameters at the rate of a [`Schedule`].
//! - [`data`] makes batches of token documents.

pub mod data;
mod error;
pub mod loss;
pub mod optim;
mod schedule;
mod state;
mod trainable;

pub use error::{Error, Result};
pub use schedule::Schedule;
pub use state::TrainingState;
pub use trainable::Trainable;
