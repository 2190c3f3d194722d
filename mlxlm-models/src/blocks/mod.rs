//! What several architectures share: attention over grouped heads, gated MLPs, experts, rotary positions.
//!
//! A block comes in when three architectures have the same mathematics, and an option goes out when one is left that
//! uses it: that architecture then writes its own.

mod activation;
mod attention;
mod mlp;
mod moe;
mod pre_norm;
mod rope;

pub use activation::Activation;
pub use attention::{Attention, HeadNorm, Heads};
pub use mlp::Mlp;
pub use moe::{Moe, Router};
pub use pre_norm::PreNormBlock;
pub use rope::Rope;
