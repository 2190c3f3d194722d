//! As good a model as a budget allows: how much each leaf matters is measured by the divergence that rounding it alone brings, and bits
//! go to where they buy the most.
//!
//! What a leaf costs at other schemes follows from how far they are from its weights, column by column as its inputs weigh them:
//! for small errors the divergence grows with their square. ([arXiv:2404.05829] and llama.cpp's `--target-bpw` choose alike.)
//!
//! [arXiv:2404.05829]: https://arxiv.org/abs/2404.05829

mod card;
mod front;
mod measure;

pub use card::{Figures, card};
pub use front::{Choice, Front, Goal, choose};
pub use measure::{MeasureOptions, Measured, measure};
