//! Token documents and the batches that they fill.

mod documents;
mod packing;

pub use documents::Documents;
pub use packing::{Batch, Batches, pack};
