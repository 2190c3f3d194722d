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

    /// The logits are infinite or no numbers, or the processors forbid every token.
    #[error("no token can be chosen as token {} of the answer: the logits are not finite", .n + 1)]
    NotNumbers {
        /// The tokens generated before.
        n: usize,
    },

    /// Tokens that a draft model proposed cannot be taken back.
    #[error("decoding with a draft model takes tokens back, which these caches cannot: {kinds}")]
    NotTrimmable {
        /// The kinds of the caches that cannot.
        kinds: String,
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
            Self::Parameter { .. } | Self::Count { .. } => None,
            Self::TokenOutOfRange { name: "prompt", .. } => {
                Some("the prompt was encoded with another model's tokenizer".into())
            }
            Self::TokenOutOfRange { .. } => {
                Some("token ids count from 0; look them up with this model's tokenizer".into())
            }
            Self::EmptyPrompt => Some("give a prompt of at least one token".into()),
            Self::PromptTooLong { .. } => Some(
                "shorten the prompt, or raise `max_position_embeddings` in config.json if the model can read more"
                    .into(),
            ),
            Self::NotNumbers { .. } => Some(
                "if no processor forbids all tokens, the weights are damaged or overflow; try them in another type"
                    .into(),
            ),
            Self::NotTrimmable { .. } => Some("leave out the draft model".into()),
        }
    }
}
