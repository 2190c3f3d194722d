//! How good a model is: perplexity on texts, differences from another model, and tasks with questions and answers.
//!
//! - [`perplexity()`]: the loss on texts, with its error.
//! - [`compare`]: how far the next-token distributions of two models are apart.
//! - [`Task`]: a task in the form of lm-evaluation-harness, from a local file; [`run()`] answers it.

mod ask;
mod docs;
mod error;
mod metric;
mod numpy;
mod perplexity;
mod run;
mod score;
mod task;
mod template;
mod write;

pub use error::EvaluateError;
pub use numpy::{permutation, sample};
pub use perplexity::{Comparison, Perplexity, compare, perplexity, sequences};
pub use run::{Answered, EvaluateOptions, Measure, TaskResult, run};
pub use score::{Score, scores, token_losses};
pub use task::Task;
