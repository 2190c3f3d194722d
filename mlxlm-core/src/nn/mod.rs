//! The leaves of every model. They alone know whether a weight is dense, packed or adapted.
//!
//! A model's structs hold leaves and shared blocks; the macro [`module!`](crate::module) gives them a [`Module::walk`],
//! through which convert, fine-tuning, fusing, counting and saving see every parameter under its checkpoint name.

mod conv;
mod embedding;
mod expert_linear;
mod linear;
mod low_rank;
mod matrix;
mod module;
mod norm;

pub use conv::Conv1d;
pub use embedding::Embedding;
pub use expert_linear::ExpertLinear;
pub use linear::Linear;
pub use low_rank::LowRankAdapter;
pub use matrix::Matrix;
pub use module::{Leaf, Module, arrange, join, parameters, size};
pub use norm::Norm;
