//! Training: optimizers, schedules, losses and data, for fine-tuning and for small models from scratch.
//!
//! - [`Trainable`] holds the parameters that are trained and differentiates a loss with respect to them.
//! - [`Optimizer`](optim::Optimizer) turns gradients into new parameters at the rate of a [`Schedule`].
//! - [`lora`] gives a model adapters to train, and fuses them into its weights; [`save_adapters`] writes them as Python does.
//! - [`data`] makes batches of token documents.

mod adapter;
pub mod data;
mod error;
pub mod lora;
pub mod loss;
pub mod optim;
mod schedule;
mod state;
#[cfg(test)]
mod testing;
mod trainable;

pub use adapter::{save_adapter_config, save_adapters};
pub use error::{Error, Result};
pub use schedule::Schedule;
pub use state::TrainingState;
pub use trainable::Trainable;
