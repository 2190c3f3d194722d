//! Language models: one file for each architecture, the blocks they share, and the loading of a model folder.
//!
//! - [`load()`] turns a folder into a [`Loaded`] model with its tokenizer; nothing of the folder is executed.
//! - [`CausalLm`] is what the rest of the system sees of a model: tokens in, logits out, caches on the way.
//! - [`ARCHITECTURES`](arch::ARCHITECTURES) lists what can be loaded; a file of `arch` is a configuration and the
//!   parts that it builds, and knows nothing of files, weight formats, adapters, sampling or batching.
//!
//! ```no_run
//! use mlxlm_cache::Caches;
//! use mlxlm_core::Array;
//! use mlxlm_models::{LoadOptions, load};
//!
//! # fn main() -> Result<(), mlxlm_models::Error> {
//! let loaded = load("path/to/model", &LoadOptions::default())?;
//! let tokens = loaded.tokenizer.encode("Once upon a time", true)?;
//! let tokens = Array::from_slice(&tokens, &[1, tokens.len() as i32]);
//! let mut caches = Caches::new(&loaded.model.cache_kinds());
//! let logits = loaded.model.forward(&tokens, Some(&mut caches))?;
//! assert_eq!(logits.dim(-1), loaded.model.info().vocab_size);
//! # Ok(())
//! # }
//! ```

mod abilities;
pub mod arch;
pub mod blocks;
mod causal_lm;
mod check;
mod config;
pub mod demo;
mod error;
pub mod frame;
pub mod gguf;
mod load;
mod prelude;
mod registry;
mod rules;
mod save;

pub use abilities::Abilities;
pub use causal_lm::{CausalLm, ModelInfo, MtpHeads, Stages, Underway};
pub use check::{Checked, Fault, check};
pub use config::{Common, HeadCounts, ModelConfig, RopeConfig};
pub use error::{Error, Result};
pub use load::{LoadOptions, Loaded, build, build_random, build_with, load, load_model, measure};
pub use registry::{Architecture, Built};
pub use rules::Rule;
pub use save::{NewFolder, check_companions, save, save_tensors};
