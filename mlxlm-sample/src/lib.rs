//! From logits to text.
//!
//! - [`samplers`]: [`Sampler`] turns log-probabilities into a token.
//! - [`processors`]: [`LogitsProcessor`]s change the logits before, knowing the tokens so far.
//!
//! Everything here knows token ids; only the outermost functions know text.
//!
//! ```
//! use mlxlm_sample::{Sampler, SamplerOptions};
//! use mlxlm_core::Array;
//!
//! let mut sampler = Sampler::new(&SamplerOptions { temp: 0.8, top_p: 0.9, seed: Some(7), ..Default::default() })?;
//! let logprobs = Array::from_slice(&[-9.0_f32, -0.01, -9.0], &[1, 3]);
//! assert_eq!(sampler.sample(&logprobs)?.try_item_exact::<u32>().unwrap(), 1);
//! # Ok::<(), mlxlm_sample::Error>(())
//! ```

pub mod error;
pub mod processors;
pub mod samplers;
mod scalar;

pub use error::{Error, Result};
pub use processors::{LogitsProcessor, ProcessorOptions, logits_processors};
pub use samplers::{Sampler, SamplerOptions};
