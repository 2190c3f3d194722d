//! What the rest of the system sees of a model.

use std::fmt::Debug;

use mlxlm_cache::{CacheKind, Caches};
use mlxlm_core::Array;
use mlxlm_core::nn::Module;

use crate::Result;

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
    /// The logits of every position.
    ///
    /// With caches the tokens continue what the caches hold; without them they are a sequence of their own. Nothing is
    /// computed yet: who only evaluates the caches does not pay for the head.
    ///
    /// # Shapes
    /// - `tokens`: `[B, L]`, integers; result: `[B, L, V]`
    fn forward(&self, tokens: &Array, caches: Option<&mut Caches>) -> Result<Array>;

    /// What each layer keeps of a sequence.
    fn cache_kinds(&self) -> Vec<CacheKind>;

    /// Facts of the model.
    fn info(&self) -> &ModelInfo;
}
