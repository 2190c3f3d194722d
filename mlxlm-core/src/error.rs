//! The error of this crate, and [`Hint`], the remedy that every error of the workspace may carry.

use std::path::PathBuf;

use mlx_rs::error::{AsSliceError, ConversionError, Exception};

use crate::quant::QuantError;
use crate::weights::WeightsError;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An MLX operation refused its inputs or failed while it ran.
    #[error("{0}")]
    Mlx(#[from] Exception),

    /// The values of an array could not be read as the type that was asked for.
    #[error(transparent)]
    Conversion(#[from] ConversionError),

    /// The memory of an array could not be read in place.
    #[error(transparent)]
    AsSlice(#[from] AsSliceError),

    /// The operating system refused to read or write a file.
    #[error("cannot {action} `{path}`: {source}", path = path.display())]
    Io {
        /// What was tried, as in "read" or "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },

    /// A file that should hold JSON does not, or holds JSON of another shape.
    #[error("`{path}` is not the JSON that was expected: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why, from the parser.
        source: serde_json::Error,
    },

    /// The weights of a model are damaged or not its own.
    #[error(transparent)]
    Weights(#[from] WeightsError),

    /// A quantization that MLX does not have.
    #[error(transparent)]
    Quant(#[from] QuantError),

    /// The number of kernel threads is none, or comes too late.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[error(transparent)]
    Threads(#[from] crate::kernels::pool::ThreadsError),

    /// The instructions that were asked for are not there.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[error(transparent)]
    Isa(#[from] crate::kernels::IsaError),

    /// The number of threads was set where it cannot be.
    #[error("the number of threads can be set for CPU kernels on Linux on x86-64 only")]
    NoThreads,

    /// A tokenizer or a chat template.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Text(#[from] crate::text::TextError),

    /// A model could not be had from, or given to, the Hugging Face hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How to mend an error: shown after it, as `hint: …`.
pub trait Hint {
    /// One sentence that says what to do, where one is known.
    fn hint(&self) -> Option<String>;
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free some disk space and run the command again".into()),
                std::io::ErrorKind::PermissionDenied => Some("check who owns the folder and its permissions".into()),
                _ => None,
            },
            Self::Weights(error) => error.hint(),
            Self::Quant(error) => error.hint(),
            #[cfg(feature = "text")]
            Self::Text(error) => error.hint(),
            #[cfg(feature = "hub")]
            Self::Hub(error) => error.hint(),
            _ => None,
        }
    }
}
