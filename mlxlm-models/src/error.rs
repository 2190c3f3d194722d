//! What can go wrong between a model folder and its logits.

use std::path::PathBuf;

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
    #[error("the model type `{name}` is not known; the nearest are {}", backticked(.near))]
    UnknownModelType {
        /// `model_type` of the configuration.
        name: String,
        /// The names that are closest to it.
        near: Vec<String>,
    },

    /// The folder brings its own code.
    #[error("config.json names `{file}` as the code of the model, which is never run")]
    ModelFile {
        /// The file.
        file: String,
    },

    /// The weights are packed in a way that cannot be read.
    #[error("config.json: weights quantized by `{method}` cannot be loaded")]
    QuantMethod {
        /// `quant_method` of the configuration.
        method: String,
    },

    /// The folder that is to be written is there already.
    #[error("`{folder}` exists already", folder = folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
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
}

fn backticked(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::NotAModel { .. } => {
                Some("give the folder of a model, or the name of a repository as `org/name`".into())
            }
            Self::UnknownModelType { .. } => Some("`mlxlm models` lists all that can be loaded".into()),
            Self::ModelFile { .. } => Some("use a checkpoint whose `model_type` is a known architecture".into()),
            Self::QuantMethod { .. } => {
                Some("convert the original, unquantized checkpoint with `mlxlm convert -q`".into())
            }
            Self::Exists { .. } => Some("name a folder that does not exist, or remove this one".into()),
            Self::Config { .. } | Self::Caches { .. } => None,
        }
    }
}
