//! What can go wrong between logits and text.

use mlxlm_core::{Exception, Hint};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation, a file, or the tokenizer failed.
    #[error(transparent)]
    Core(#[from] mlxlm_core::Error),

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
    pub(crate) fn parameter(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Parameter { name, value: value.to_string(), expected: expected.into() }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Parameter { .. } => None,
            Self::TokenOutOfRange { name: "prompt", .. } => {
                Some("the prompt was encoded with another model's tokenizer".into())
            }
            Self::TokenOutOfRange { .. } => {
                Some("token ids count from 0; look them up with this model's tokenizer".into())
            }
        }
    }
}
