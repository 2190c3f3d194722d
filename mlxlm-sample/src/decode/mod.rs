//! The decode loops: from a prompt of token ids to token ids.
//!
//! - [`PlainDecoding`]: one sequence, token by token, with the next step dispatched before the last is read.
//! - [`DraftDecoding`]: one sequence; a small model proposes tokens and the large one checks several at once.
//! - [`BatchDecoding`]: several sequences, each with its own sampler.
//! - [`prefill`]: only reads a prompt into caches.
//!
//! All are iterators that read the prompt at their first step. They know nothing of text, nor of what ends it.

mod batch;
mod choose;
mod draft;
mod lane;
mod plain;

use mlxlm_core::{Array, Exception};

pub use batch::{BatchCounters, BatchDecoding, BatchRow, RowToken};
pub use choose::Chooser;
pub use draft::{Draft, DraftDecoding};
pub use lane::{make_prompt_cache, prefill};
pub use plain::PlainDecoding;

use crate::Result;

/// One token of a sequence.
#[derive(Debug, Clone)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The log-probabilities that it was drawn from, before the sampler's filters: `[V]`.
    pub logprobs: Array,
    /// Whether a draft model had proposed it.
    pub from_draft: bool,
}

impl Token {
    /// The log-probability of the token itself.
    pub fn logprob(&self) -> Result<f32> {
        let own = self.logprobs.take_axis(Array::from_int(self.id as i32), 0)?;
        Ok(own.try_item_cast::<f32>().map_err(|error| Exception::custom(error.to_string()))?)
    }
}

/// Called with the tokens of the prompt that are read and with all of them: first with zero read, then after each chunk.
pub type Progress<'a> = dyn FnMut(usize, usize) + 'a;

/// Freed buffers are given back every so many tokens, as they pile up while the cache grows.
const CLEAR_EVERY: usize = 256;

/// Ids as an array `[1, L]`.
fn row_of(ids: &[u32]) -> Array {
    Array::from_slice(ids, &[1, ids.len() as i32])
}

#[cfg(test)]
mod tests;
