//! What can go wrong when a model is evaluated.

use std::path::PathBuf;

use mlxlm_core::Hint;

/// What can go wrong when a model is evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// A task that cannot be read or asks for what is not supported.
    #[error("the task `{path}` {why}", path = path.display())]
    Task {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A document of a task does not fit its templates.
    #[error("{place}: {why}")]
    Document {
        /// The file and the line.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Not enough text for one sequence.
    #[error("the texts have {tokens} tokens, fewer than one sequence of {sequence_length}")]
    TooFewTokens {
        /// Tokens of all texts.
        tokens: usize,
        /// Tokens in a sequence.
        sequence_length: usize,
    },
    /// Two models over different vocabularies.
    #[error("the models have vocabularies of {got} and {expected} tokens, and cannot be compared")]
    Vocabulary {
        /// That of the model.
        got: i32,
        /// That of the other.
        expected: i32,
    },
    /// A number that makes no sense.
    #[error("`{name}` is {value}, expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Hint for EvaluateError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::TooFewTokens { .. } => Some("use more texts, or shorter sequences".into()),
            Self::Vocabulary { .. } => Some("compare a model with one of the same family".into()),
            Self::Task { .. } | Self::Document { .. } | Self::Option { .. } => None,
        }
    }
}
