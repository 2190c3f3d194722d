//! From logits to text.
//!
//! - [`samplers`]: [`Sampler`] turns log-probabilities into a token.
//! - [`processors`]: [`LogitsProcessor`]s change the logits before, knowing the tokens so far.
//! - [`grammar`]: which tokens may come next, so that an answer is JSON of a schema, matches an expression, and so on.
//! - [`engine`]: from prompts of token ids to token ids, any number of sequences at once.
//! - [`propose`]: proposals of tokens (speculative decoding), so that the model checks several in one pass.
//! - [`stream_generate`], [`generate()`] and [`batch_generate()`]: the same from text to text; [`Generator`] has
//!   all options.
//!
//! ```no_run
//! use mlxlm_models::{LoadOptions, load};
//! use mlxlm_sample::{GenerateOptions, stream_generate};
//!
//! let loaded = load("models/demo", &LoadOptions::default())?;
//! let options = GenerateOptions { max_tokens: Some(100), ..GenerateOptions::default() };
//! let mut text = String::new();
//! for response in stream_generate(loaded.model.as_ref(), &loaded.tokenizer, "Once upon a time", &options)? {
//!     text += &response?.text;
//! }
//! # Ok::<(), mlxlm_sample::Error>(())
//! ```
//!
//! Everything works on token ids; only these functions work on text.
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

pub mod batch_generate;
pub mod engine;
pub mod error;
pub mod generate;
pub mod grammar;
pub mod options;
pub mod processors;
pub mod prompt;
pub mod propose;
pub mod samplers;
mod scalar;
#[cfg(test)]
mod testing;

/// The examples of the repository's README, which are compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub use batch_generate::{BatchOptions, BatchStats, BatchText, batch_generate};
pub use engine::{FinishReason, make_prompt_cache, prefill};
pub use error::{Error, Result};
pub use generate::{Generation, GenerationResponse, Generator, generate, stream_generate};
pub use options::{GenerateOptions, KvQuantization, prefill_step_size};
pub use processors::{LogitsProcessor, ProcessorOptions, logits_processors};
pub use prompt::Prompt;
pub use propose::Draft;
pub use samplers::{Sampler, SamplerOptions};
