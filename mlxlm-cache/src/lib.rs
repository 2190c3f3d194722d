//! Caches of the tokens that a model has read, so that the next token costs one step instead of the whole prompt.
//!
//! - [`CacheKind`] is what an architecture declares for each of its layers, as data.
//! - [`Caches`] holds one [`LayerCache`] for each layer of a sequence. A layer's attention tells its cache to
//!   [`attend`](LayerCache::attend); it never asks which kind it is. [`Caches::join`] makes sequences the rows of one pass.
//! - [`Attend`] says how a layer attends (scale, soft-cap, sinks, window); [`Masks`] remembers the masks that the layers
//!   of one forward pass share. Without a cache, as in training, keys and values are a [`Reach`] of their own.
//!
//! Which tokens are kept (all, a window, a chunk) and how they are kept (exact or quantized) are independent:
//! every kind that keeps keys and values can be quantized. Files are those of Python mlx-lm ([`Caches::save`],
//! [`Caches::load`]). A [`store::PromptStore`] keeps the caches of prompts for later prompts with the same beginning, in
//! memory and on disk.
//!
//! ```
//! use mlxlm_cache::{Attend, CacheKind, Caches, Masks, Offset};
//! use mlxlm_core::{Array, ops};
//!
//! # fn main() -> Result<(), mlxlm_cache::Error> {
//! // One layer, two heads of width four; five tokens are read.
//! let mut caches = Caches::new(&[CacheKind::Kv]);
//! let x: Array = ops::ones::<f32>(&[1, 2, 5, 4])?;
//! let masks = Masks::default();
//! let out = caches.layer_mut(0)?.attend(&x, &x, &x, &Attend::scaled(0.5), &masks)?;
//! assert_eq!(out.shape(), [1, 2, 5, 4]);
//! assert!(matches!(caches.offset(), Offset::Same(5)));
//!
//! // Go back by two tokens.
//! assert_eq!(caches.trim(2), 2);
//! # Ok(())
//! # }
//! ```

mod attend;
mod buffer;
mod caches;
mod chunked;
mod compressed;
mod error;
mod file;
mod format;
mod kind;
mod kv;
mod layer;
mod mark;
mod mask;
mod quantized;
mod rotating;
mod rows;
mod snapkv;
mod state;
pub mod store;

pub use attend::{Attend, Reach, Seen};
pub use caches::{Caches, Snapshot};
pub use compressed::{CompressedCache, appended};
pub use error::{Error, FileProblem, Result};
pub use format::KvFormat;
pub use kind::CacheKind;
pub use layer::{LayerCache, Offset};
pub use mark::Mark;
pub use mask::{Mask, Masks};
pub use snapkv::SnapKv;
pub use state::{Beginning, Replay, StateCache};
