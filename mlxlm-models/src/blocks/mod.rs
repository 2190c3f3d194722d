//! The parts that architectures are put together from: attention over grouped heads and over latents, state-space mixers, MLPs,
//! experts and their routers, rotary positions, and the ways in which a block adds its halves to its input.
//!
//! A part lies here if several architectures have it, or if it is a mixer or a block of a page or more: an architecture's own file
//! then says what the model is made of, and the part has a file that names its paper. An option of a part goes out when a
//! single architecture uses it: that one then writes its own.

pub(crate) mod altup;
mod attention;
pub(crate) mod block_index;
pub(crate) mod choosing;
pub(crate) mod compressed;
pub mod delta;
pub(crate) mod delta_net;
mod experts;
pub(crate) mod gate_in_query;
mod gated_attention;
pub(crate) mod gated_stream;
mod growth;
mod heads;
mod kimi_delta;
mod latent;
pub(crate) mod lent;
pub(crate) mod lightning;
pub(crate) mod looped;
mod mamba;
mod mamba2;
mod mlp;
mod moe;
pub(crate) mod narrow_moe;
pub(crate) mod per_layer;
pub(crate) mod plamo;
mod residual;
pub(crate) mod rg_lru;
mod rope;
mod router;
pub(crate) mod rwkv7;
mod short_conv;
mod sparse;
pub(crate) mod striped;
pub(crate) mod token_index;

pub use attention::{Attention, AttentionNames, Bias, HeadNorm, Heads, Mixer, SpreadNorm, cache_of};
pub use delta::DeltaHeads;
pub use experts::{ExpertShape, Experts, ExpertsNames};
pub use gated_attention::{Gate, GatedAttention};
pub use growth::grown;
pub use heads::{merge_heads, split_heads};
pub use kimi_delta::{KimiDelta, KimiDeltaConfig, KimiDeltaShape, flatten};
pub use latent::{LatentAttention, LatentConfig, LatentGate, LatentHeads, Queries};
pub use mamba::{Mamba, MambaConfig, Rank, StepNorm};
pub use mamba2::{GateNorm, Mamba2, Mamba2Config, ScanHeads, StateSpace, StepLimits};
pub use mlp::{FeedForward, Mlp, MlpNames};
pub use moe::{Moe, MoeNames, add_up};
pub use residual::{BlockNames, ParallelBlock, PostNormBlock, PreNormBlock, SandwichBlock, SingleBlock};
pub use rope::Rope;
pub(crate) use rope::length;
pub use router::{Groups, Router, Routing, Score};
pub use short_conv::{ShortConv, convolve};
pub use sparse::SparseConfig;
