//! Who guesses the next tokens, so that the model reads several in one pass.
//!
//! A [`Proposer`] knows the text so far and guesses how it goes on: by a smaller model ([`DraftModel`]), by further heads of the model
//! itself ([`Mtp`]), or by what the text has said before. The engine checks its guesses; a wrong guess costs time and never changes the
//! text.

mod auto;
mod draft;
mod lookup;
mod mtp;
mod suffix;

use mlxlm_core::Array;
use mlxlm_models::CausalLm;

pub use auto::Auto;
pub use draft::{Draft, DraftModel};
pub use lookup::PromptLookup;
pub use mtp::Mtp;
pub use suffix::{Cursor, SharedIndex, SuffixIndex};

use crate::Result;
use crate::engine::Chooser;

/// What a proposer may look at.
pub struct Scene<'s> {
    /// The model that will check.
    pub model: &'s dyn CausalLm,
    /// The prompt and all that was generated.
    pub text: &'s [u32],
    /// How many of its tokens the chooser knows of.
    pub(crate) noted: usize,
    /// How the next token will be chosen.
    pub chooser: &'s Chooser,
    /// The most tokens that are wanted.
    pub most: usize,
}

/// Guesses the next tokens of one sequence.
pub trait Proposer {
    /// At most [`most`](Scene::most) tokens that may follow the text; none if there is nothing to guess by.
    ///
    /// Between two calls the text grows, and is never changed.
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>>;

    /// Whether it sits out the next pass, which is then one of plain decoding: dispatched before the token that it reads is known.
    /// Asked once for each pass.
    fn rests(&mut self) -> bool {
        false
    }

    /// Whether it wants to see the states of the tokens that the model reads.
    fn wants_states(&self) -> bool {
        false
    }

    /// Shows the states of tokens that the model has read, as [`CausalLm::hidden`] handed them out: `tokens` from place `from` of the
    /// text on. A place may be shown twice, with the same state.
    ///
    /// # Shapes
    /// - `states`: `[1, L, D]`, of `L` tokens
    fn observe(&mut self, _model: &dyn CausalLm, _from: usize, _tokens: &[u32], _states: &Array) -> Result<()> {
        Ok(())
    }

    /// What became of the last guess: of `proposed` tokens the first `accepted` were right.
    fn checked(&mut self, _proposed: usize, _accepted: usize) {}

    /// Brings what others will go on with, such as caches that are lent, to the end of the text.
    fn settle(&mut self, _text: &[u32]) -> Result<()> {
        Ok(())
    }
}
