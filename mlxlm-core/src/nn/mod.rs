//! The leaves of every model. They alone know whether a weight is dense, packed or adapted.
//!
//! A model's structs hold leaves and shared blocks; the macro [`module!`](crate::module) gives them a [`Module::walk`],
//! through which convert, fine-tuning, fusing, counting and saving see every parameter under its checkpoint name.

mod checkpoint;
mod conv;
mod embedding;
mod expert_linear;
mod head_linear;
mod linear;
mod low_rank;
mod matrix;
mod mode;
mod module;
mod norm;
mod parameter;
mod rotation;
mod watch;
mod worth;

pub use checkpoint::{checkpoint, checkpoints_blocks, handles, value_and_grad};
pub use conv::Conv1d;
pub use embedding::Embedding;
pub use expert_linear::ExpertLinear;
pub use head_linear::HeadLinear;
pub use linear::Linear;
pub use low_rank::LowRankAdapter;
pub use matrix::Matrix;
pub use mode::{is_training, train};
pub use module::{Leaf, LeafMut, Module, arrange, join, parameters, size};
pub use norm::Norm;
pub use parameter::Parameter;
pub use rotation::Rotation;
pub use watch::{Heard, Place, watch};
pub use worth::{MAX_PIECES, Precision, Role, Worth};
