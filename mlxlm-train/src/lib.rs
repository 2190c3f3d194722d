//! Training: optimizers, schedules, losses and data, for fine-tuning and for small models from scratch.
//!
//! - [`Trainable`] holds the parameters that are trained and differentiates a loss with respect to them.
//! - [`Optimizer`](optim::Optimizer) turns gradients into new parameters at the rate of a [`Schedule`].
//! - [`lora`] gives a model adapters to train, and fuses them into its weights; [`save_adapters`] writes them as Python does.
//! - [`Trainer`] is a whole run over a dataset: validation, reports, checkpoints, exact resuming.
//! - [`data`] reads datasets and makes batches of them.
//! - [`merge`] makes one model of several.
//! - [`evaluate`] measures models: perplexity, differences, tasks.
//!
//! A step of training:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use mlxlm_core::transforms;
//! use mlxlm_train::data::{Batches, Documents};
//! use mlxlm_train::optim::{Adam, Optimizer, Rule};
//! use mlxlm_train::{Trainable, loss};
//!
//! let mut model = mlxlm_models::load_model("model", &Default::default())?.0.model;
//! let documents = Documents::read("train.jsonl", model.info().vocab_size as u32)?;
//! let mut trainable = Trainable::collect(&mut *model, |_, _| true);
//! let mut optimizer = Optimizer::new(Rule::Adam(Adam::default()));
//! for batch in Batches::new(&documents, 8, 256, 0)?.take(100) {
//!     let (_, gradients) = trainable.value_and_grad(&mut *model, |model| {
//!         let logits = model.forward(&batch.inputs, None)?;
//!         let (sum, count) = loss::cross_entropy(&logits, &batch.targets, &batch.mask)?;
//!         Ok(vec![sum.divide(count)?])
//!     })?;
//!     let updated = optimizer.update(trainable.arrays(), &gradients, 1e-4)?;
//!     transforms::eval(updated.iter().chain(optimizer.moments().iter().flatten()))?;
//!     trainable.replace(&mut *model, updated)?;
//! }
//! # Ok(())
//! # }
//! ```

mod adapter;
pub mod data;
mod error;
pub mod evaluate;
mod fine_tune;
pub mod lora;
pub mod loss;
pub mod merge;
mod objective;
pub mod optim;
pub mod report;
mod schedule;
mod state;
#[cfg(test)]
mod testing;
mod trainable;
pub mod trainer;

pub use adapter::{save_adapter_config, save_adapters};
pub use error::{Error, Result};
pub use fine_tune::{FineTune, load_adapters, rank_stabilized};
pub use objective::{Objective, log_likelihoods};
pub use schedule::Schedule;
pub use state::{RunDetails, TrainingState};
pub use trainable::Trainable;
pub use trainer::{Trainer, TrainerOptions};
