//! What can go wrong while training.

use std::path::PathBuf;

use mlxlm_core::{Exception, Hint};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a checkpoint or an MLX operation.
    #[error(transparent)]
    Core(#[from] mlxlm_core::Error),
    /// A model or its folder.
    #[error(transparent)]
    Model(#[from] mlxlm_models::Error),
    /// A line of a dataset is not a document.
    #[error("`{path}` line {line}: {why}", path = path.display())]
    Document {
        /// The dataset.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A dataset is too small to make a batch of.
    #[error("`{path}` makes {rows} rows of {len} tokens, fewer than one batch of {batch_size}", path = path.display())]
    TooFewRows {
        /// The dataset.
        path: PathBuf,
        /// Rows that its documents fill.
        rows: usize,
        /// Tokens in each row.
        len: usize,
        /// Rows in a batch.
        batch_size: usize,
    },
    /// A learning-rate schedule that does not exist or lacks arguments.
    #[error("the schedule `{name}` {why}")]
    Schedule {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A training state is not one that this training can continue.
    #[error("`{path}` cannot be continued: {why}", path = path.display())]
    Resume {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// More blocks are to be trained than there are.
    #[error("{wanted} layers are to be trained, and the model has {layers}")]
    TooManyLayers {
        /// How many are asked for.
        wanted: usize,
        /// How many there are.
        layers: usize,
    },
    /// A leaf that takes no adapter, or not this kind.
    #[error("`{path}` cannot be adapted: {why}")]
    CannotAdapt {
        /// The leaf.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// Keys that fit no leaf of the model.
    #[error("the model has no `{}`", keys.join("`, `"))]
    UnknownKeys {
        /// The keys.
        keys: Vec<String>,
    },
    /// A rank below 1, a scale that is no number, or a dropout of 1 or more.
    #[error("`rank` must be at least 1, `scale` finite, and `dropout` from 0 to below 1")]
    LoraParameters,
    /// Moments of another update rule.
    #[error("a parameter has {got} moments, and the optimizer keeps {expected}")]
    Moments {
        /// How many it has.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The parameters of a model are not those that were collected from it.
    #[error("the model has {got} of the {expected} parameters that are trained")]
    Parameters {
        /// How many were found.
        got: usize,
        /// How many were collected.
        expected: usize,
    },
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Core(exception.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::TooFewRows { .. } => Some("take a smaller batch or shorter rows".into()),
            Self::Resume { .. } => Some("begin anew without `--resume`".into()),
            Self::UnknownKeys { .. } => {
                Some("keys are paths inside a block, as in `self_attn.q_proj`, or whole paths".into())
            }
            Self::TooManyLayers { .. } => Some("-1 trains all layers".into()),
            Self::CannotAdapt { .. }
            | Self::LoraParameters
            | Self::Document { .. }
            | Self::Schedule { .. }
            | Self::Moments { .. }
            | Self::Parameters { .. } => None,
        }
    }
}
