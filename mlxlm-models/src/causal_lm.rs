//! What the rest of the system sees of a model.

use std::fmt::Debug;

use mlxlm_cache::{CacheKind, Caches};
use mlxlm_core::Array;
use mlxlm_core::nn::Module;

use crate::frame::{Packing, Pass};
use crate::{Error, Result};

/// Facts of a model that do not depend on its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// `model_type` of its configuration.
    pub model_type: String,
    /// Rows of the embedding table, hence logits for each token.
    pub vocab_size: i32,
    /// Blocks.
    pub num_layers: usize,
    /// The longest sequence that it can read, if the configuration says so.
    pub context_length: Option<i32>,
}

/// A model that predicts the next token.
pub trait CausalLm: Debug + Module {
    /// The states of every position after the last block and its norm: what the head reads, and what embeddings of texts are
    /// made of.
    ///
    /// With caches the tokens continue what the caches hold; without them they are a sequence of their own.
    ///
    /// # Shapes
    /// - `tokens`: `[B, L]`, integers; result: `[B, L, D]`
    fn hidden(&self, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array>;

    /// [`hidden`](Self::hidden) of rows that hold several documents each, of which none sees another: each has the states that it has
    /// alone.
    ///
    /// # Shapes
    /// - `tokens`: `[B, L]`, integers; result: `[B, L, D]`
    ///
    /// # Errors
    /// [`Error::Packing`] of an architecture that would mix them, as those do whose blocks carry a state from token to token.
    fn hidden_packed(&self, _tokens: &Array, _packing: &Packing) -> Result<Array> {
        Err(Error::packing("it has a stack of its own").of_model(&self.info().model_type))
    }

    /// The logits of the next token after each state.
    ///
    /// # Shapes
    /// - `hidden`: `[B, L, D]`, result: `[B, L, V]`
    fn head(&self, hidden: &Array) -> Result<Array>;

    /// The logits of every position: [`head`](Self::head) of [`hidden`](Self::hidden).
    ///
    /// Nothing is computed yet: who only evaluates the caches does not pay for the head.
    ///
    /// # Shapes
    /// - `tokens`: `[B, L]`, integers; result: `[B, L, V]`
    fn forward(&self, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array> {
        self.head(&self.hidden(tokens, caches)?)
    }

    /// Whether [`head`](Self::head) reads the parameter of this name; a model that does not know says yes.
    fn head_reads(&self, _name: &str) -> bool {
        true
    }

    /// What each layer keeps of a sequence.
    fn cache_kinds(&self) -> Vec<CacheKind>;

    /// Facts of the model.
    fn info(&self) -> &ModelInfo;

    /// The model as stages that can be run one by one, if it is made of such.
    fn stages(&self) -> Option<&dyn Stages> {
        None
    }

    /// Its heads that predict further tokens, if they were loaded.
    fn mtp(&self) -> Option<&dyn MtpHeads> {
        None
    }
}

/// Where a text is on its way through a model: before one of its [stages](Stages).
#[derive(Debug)]
pub struct Underway<'t> {
    /// The stage that comes next.
    pub stage: usize,
    /// What it reads: `[B, L, D]`.
    pub x: Array,
    pub(crate) pass: Pass<'t>,
}

impl Underway<'_> {
    /// The same text with other values, as a gradient with respect to them wants it.
    ///
    /// # Errors
    /// [`Error::Caches`] for a text with caches, which no [`Stages::enter`] makes.
    pub fn with(&self, x: Array) -> Result<Self> {
        let pass = self.pass.copy().ok_or(Error::Caches { expected: 0, got: 1 })?;
        Ok(Self { stage: self.stage, x, pass })
    }

    /// Whether blocks have handed something on to later ones beside [`x`](Self::x).
    pub fn is_carrying(&self) -> bool {
        self.pass.is_carrying()
    }
}

/// A model as a row of blocks that are run one by one, each as often as one likes: what calibration does, which looks at one
/// block at a time.
pub trait Stages {
    /// How many there are: blocks, times how often the stack is run.
    fn count(&self) -> usize;

    /// Texts before the first stage. Computed without caches.
    ///
    /// # Shapes
    /// - `tokens`: `[B, L]`, integers
    fn enter<'t>(&self, tokens: &'t Array) -> Result<Underway<'t>>;

    /// The same texts after the next stage. What `at` holds stays as it is.
    fn advance<'t>(&self, at: &Underway<'t>) -> Result<Underway<'t>>;

    /// The states that [`CausalLm::hidden`] gives, after the last stage.
    fn leave(&self, at: Underway<'_>) -> Result<Array>;
}

/// Heads that predict further tokens (multi-token prediction, arXiv:2412.19437): the first the token after the next one, the
/// second the one after that.
///
/// A head reads the state of token `i`, which for the first head is the model's and for all others the state of the head before, and
/// the token `i + 1`, or whichever is next to it. What it makes of them is a state again: the model's [`head`](CausalLm::head) turns it into
/// logits, and the last head may read it once more with the token chosen from them, to guess further than it was trained for.
pub trait MtpHeads {
    /// How many there are.
    fn count(&self) -> usize;

    /// What a head keeps of a sequence, apart from what the model keeps. Positions count from its first pair.
    fn cache_kinds_of(&self, head: usize) -> Vec<CacheKind>;

    /// What the first head reads of states that [`CausalLm::hidden`] has handed out.
    ///
    /// # Shapes
    /// - `hidden`: `[B, L, D]`, and the same comes back
    fn entry(&self, hidden: &Array) -> Result<Array>;

    /// The states of a head, by number.
    ///
    /// With caches the pairs continue what the caches hold; without them they are a sequence of their own.
    ///
    /// # Shapes
    /// - `states`: `[B, L, D]`; `tokens`: `[B, L]`, integers, the token after each state; result: `[B, L, D]`
    fn states(&self, head: usize, states: &Array, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array>;

    /// Whether the leaf at this path is a part of a head.
    fn owns(&self, path: &str) -> bool;
}
