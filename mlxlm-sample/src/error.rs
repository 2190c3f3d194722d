//! What can go wrong between logits and text.

use mlxlm_core::{Exception, Hint};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation, a file, or the tokenizer failed.
    #[error(transparent)]
    Core(#[from] mlxlm_core::Error),

    /// A cache refused.
    #[error(transparent)]
    Cache(#[from] mlxlm_cache::Error),

    /// The model failed.
    #[error(transparent)]
    Model(#[from] mlxlm_models::Error),

    /// A grammar cannot be used, or an answer does not follow it.
    #[error(transparent)]
    Grammar(#[from] crate::grammar::GrammarError),

    /// A sampling or generation parameter is outside the values it may take.
    #[error("`{name}` is {value}, expected {expected}")]
    Parameter {
        /// The parameter's name, as in the options.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// The values it may take.
        expected: String,
    },

    /// A token id lies outside the model's vocabulary.
    #[error("token id {id} in `{name}` is outside the vocabulary of {vocab_size} tokens")]
    TokenOutOfRange {
        /// Where the id was given.
        name: &'static str,
        /// The id.
        id: u32,
        /// How many tokens the model knows.
        vocab_size: i32,
    },

    /// There is nothing to go on from.
    #[error("the prompt is empty")]
    EmptyPrompt,

    /// The model was not trained for so long a text.
    #[error("the prompt has {tokens} tokens{}, and the model reads at most {limit}", after(*.held))]
    PromptTooLong {
        /// The tokens of the prompt.
        tokens: usize,
        /// The tokens in the cache before it.
        held: usize,
        /// `max_position_embeddings` of the model.
        limit: usize,
    },

    /// There is less memory than the keys and values would take.
    #[error("the KV cache of {} needs {}, but only {} are free", sequences(*.rows, *.tokens), gigabytes(*.needed), gigabytes(*.free))]
    NoRoom {
        /// The sequences that are read at once.
        rows: usize,
        /// The tokens that each of them reads.
        tokens: usize,
        /// The bytes that this takes.
        needed: u64,
        /// The bytes that can be had.
        free: u64,
    },

    /// The logits are infinite or no numbers, or the processors forbid every token.
    #[error("no token can be chosen as token {} of the answer: the logits are not finite", .n + 1)]
    NotNumbers {
        /// The tokens generated before.
        n: usize,
    },

    /// No layer remembers a matrix by the gated delta rule.
    #[error("this model has no gated delta nets, so it has no state to keep in bf16")]
    NothingToNarrow,

    /// No layer can drop keys and values for SnapKV.
    #[error("SnapKV cannot be used: no layer of this model has a full KV cache")]
    NothingToEvict,

    /// Heads that predict further tokens are wanted of a model that has none.
    #[error("the model (type `{model_type}`) has no heads for multi-token prediction (MTP)")]
    NoMtpHeads {
        /// `model_type` of its configuration.
        model_type: String,
    },

    /// Lists that should have one entry for each prompt.
    #[error("`{name}` has {got} entries for {expected} prompts")]
    Count {
        /// The list.
        name: &'static str,
        /// Its entries.
        got: usize,
        /// The prompts.
        expected: usize,
    },
}

/// A clause about the tokens in the cache, where there are any.
fn after(held: usize) -> String {
    if held == 0 { String::new() } else { format!(" after {held} in the cache") }
}

fn sequences(rows: usize, tokens: usize) -> String {
    if rows == 1 { format!("{tokens} tokens") } else { format!("{rows} sequences of {tokens} tokens") }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.3} GB", bytes as f64 / 1e9)
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Core(exception.into())
    }
}

impl Error {
    /// A parameter that cannot be `value`.
    #[expect(clippy::needless_pass_by_value, reason = "most callers pass numbers")]
    pub(crate) fn parameter(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Parameter { name, value: value.to_string(), expected: expected.into() }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Grammar(error) => error.hint(),
            Self::Parameter { .. } | Self::Count { .. } => None,
            Self::NoMtpHeads { .. } => Some(
                "use a checkpoint that has them, in its own weight files or as `mtp.safetensors`; most that other tools have \
                 converted lack them"
                    .into(),
            ),
            Self::NothingToEvict => Some("leave out SnapKV".into()),
            Self::NothingToNarrow => Some("omit `--gdn-state-bf16`".into()),
            Self::TokenOutOfRange { name: "prompt", .. } => {
                Some("the prompt was encoded with another model's tokenizer".into())
            }
            Self::TokenOutOfRange { .. } => {
                Some("token ids count from 0; look them up with this model's tokenizer".into())
            }
            Self::EmptyPrompt => Some("use a prompt of at least one token".into()),
            Self::PromptTooLong { .. } => Some(
                "shorten the prompt, or raise `max_position_embeddings` in config.json if the model can read more"
                    .into(),
            ),
            Self::NoRoom { .. } => Some(
                "give fewer or shorter prompts, keep the latest tokens only (`max_kv_size`), or quantize keys and values"
                    .into(),
            ),
            Self::NotNumbers { .. } => Some(
                "if no processor forbids all tokens, the weights overflow, or are damaged; try another type, and `mlxlm check`"
                    .into(),
            ),
        }
    }
}
