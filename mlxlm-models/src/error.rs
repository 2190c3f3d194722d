//! What can go wrong between a model folder and its logits.

use std::path::PathBuf;

use mlxlm_core::error::{LISTED, listed};
use mlxlm_core::{Exception, Hint};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of MLX failed, a file could not be read, or the weights do not fit.
    #[error(transparent)]
    Core(#[from] mlxlm_core::Error),

    /// A cache refused.
    #[error(transparent)]
    Cache(#[from] mlxlm_cache::Error),

    /// The folder is not one of a model.
    #[error("`{folder}` has no `config.json`", folder = folder.display())]
    NotAModel {
        /// The folder.
        folder: PathBuf,
    },

    /// A value of `config.json` is missing, of the wrong type, or absurd.
    #[error("config.json: {what}")]
    Config {
        /// Which key, and what is wrong with it.
        what: String,
    },

    /// The architecture is not known.
    #[error("the model type `{name}` is not known{}", nearest(near))]
    UnknownModelType {
        /// `model_type` of the configuration.
        name: String,
        /// Names that it may be a misspelling of.
        near: Vec<String>,
    },

    /// The folder brings its own code.
    #[error("config.json names `{file}` as code of the model, which is never run")]
    ModelFile {
        /// The file.
        file: String,
    },

    /// The folder that is to be written is there already.
    #[error("`{folder}` already exists", folder = folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },

    /// The models that are built in have no place to be written to.
    #[error("there is no folder for the built-in models: neither XDG_CACHE_HOME nor HOME is set")]
    NoHome,

    /// A sequence that goes beyond the last learned position.
    #[error("the sequence has {tokens} tokens, but the model supports at most {most} positions")]
    TooLong {
        /// The tokens.
        tokens: i32,
        /// The positions.
        most: i32,
    },

    /// A head that predicts further tokens which the model does not have.
    #[error("the model has {count} heads for multi-token prediction; there is no head {head} (counted from zero)")]
    MtpHead {
        /// The head.
        head: usize,
        /// The heads that there are.
        count: usize,
    },

    /// An architecture that cannot tell several documents in one row apart.
    #[error("rows of several documents cannot be read by `{model}`: {why}")]
    Packing {
        /// The model's type; empty where only a part of it is known.
        model: String,
        /// What stands against it.
        why: &'static str,
    },

    /// Another number of caches than layers.
    #[error("{got} caches for a model of {expected} layers")]
    Caches {
        /// The layers.
        expected: usize,
        /// The caches given.
        got: usize,
    },
}

/// `; the nearest are …`, or nothing where no name is near.
fn nearest(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; the nearest are {}", listed(near, LISTED)) }
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Core(exception.into())
    }
}

impl From<mlxlm_core::weights::WeightsError> for Error {
    fn from(error: mlxlm_core::weights::WeightsError) -> Self {
        Self::Core(error.into())
    }
}

impl Error {
    pub(crate) fn config(what: impl Into<String>) -> Self {
        Self::Config { what: what.into() }
    }

    /// Of a part of a model; [`of_model`](Self::of_model) names the whole.
    pub(crate) fn packing(why: &'static str) -> Self {
        Self::Packing { model: String::new(), why }
    }

    /// The same with the type of the model that it came of, where it speaks of one.
    pub(crate) fn of_model(self, model_type: &str) -> Self {
        match self {
            Self::Packing { why, .. } => Self::Packing { model: model_type.to_owned(), why },
            other => other,
        }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::NotAModel { .. } => Some("use a model folder, or a hub repository such as `org/name`".into()),
            Self::UnknownModelType { .. } => Some("`mlxlm models` lists the supported types".into()),
            Self::ModelFile { .. } => Some("use a checkpoint whose `model_type` is a known architecture".into()),
            Self::Exists { .. } => Some("use a folder that does not exist, or remove this one".into()),
            Self::NoHome => Some("set XDG_CACHE_HOME to a folder you can write to".into()),
            Self::TooLong { .. } => Some("shorten the prompt, or generate fewer tokens".into()),
            Self::Packing { .. } => Some("train without packing".into()),
            Self::Config { .. } | Self::Caches { .. } | Self::MtpHead { .. } => None,
        }
    }
}
