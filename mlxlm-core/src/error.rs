//! The error of this crate, and [`Hint`], the remedy that every error of the workspace may carry.

use std::path::PathBuf;

#[cfg(feature = "mlx")]
use mlx_rs::error::{AsSliceError, ConversionError, Exception};

#[cfg(feature = "mlx")]
use crate::{quant::QuantError, raw, weights::WeightsError};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An MLX operation refused its inputs or failed while it ran.
    #[cfg(feature = "mlx")]
    #[error("{}", in_words(.0))]
    Mlx(#[from] Exception),

    /// The values of an array could not be read as the type that was asked for.
    #[cfg(feature = "mlx")]
    #[error(transparent)]
    Conversion(#[from] ConversionError),

    /// The memory of an array could not be read in place.
    #[cfg(feature = "mlx")]
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

    /// What should be a file is a folder, a pipe, a socket or a device.
    #[error("cannot {action} `{path}`: it is {kind}, not a file", path = path.display())]
    NotAFile {
        /// What was tried, as in "read".
        action: &'static str,
        /// Where it lies.
        path: PathBuf,
        /// What it is, as in "a pipe".
        kind: &'static str,
    },

    /// A file is larger than any real one of its kind.
    #[error("`{path}` has more than {limit_bytes} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit_bytes: u64,
    },

    /// A file is only the pointer that git-lfs puts in its place.
    #[error("`{path}` is a pointer of git-lfs, not the file itself", path = path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },

    /// A file of a folder is a link to something outside of it.
    #[error("`{path}` is a link to `{target}`, which is not in the same folder", path = path.display(), target = target.display())]
    LinkOut {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },

    /// A file that should hold JSON does not, or holds JSON of another shape.
    #[error("`{path}` is not valid JSON: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why, from the parser.
        source: serde_json::Error,
    },

    /// The weights of a model are damaged or not its own.
    #[cfg(feature = "mlx")]
    #[error(transparent)]
    Weights(#[from] WeightsError),

    /// A quantization that MLX does not have.
    #[cfg(feature = "mlx")]
    #[error(transparent)]
    Quant(#[from] QuantError),

    /// The number of kernel threads is none, or comes too late.
    #[cfg(all(feature = "mlx", target_os = "linux", target_arch = "x86_64"))]
    #[error(transparent)]
    Threads(#[from] crate::kernels::pool::ThreadsError),

    /// The instructions that were asked for are not there.
    #[cfg(all(feature = "mlx", target_os = "linux", target_arch = "x86_64"))]
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

/// What MLX says, and where we called it; what the system refuses has nothing to do with the place.
#[cfg(feature = "mlx")]
fn in_words(exception: &Exception) -> String {
    let (what, place) = (exception.what(), exception.location());
    if raw::is_refused_by_system(what) { what.to_owned() } else { format!("{what} (at {place})") }
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How to mend an error: shown after it, as `hint: …`.
pub trait Hint {
    /// One sentence that says what to do, where one is known.
    fn hint(&self) -> Option<String>;
}

/// The first names of a list, and how many more there are: an error that lists thousands helps nobody.
pub fn listed(names: &[impl std::fmt::Display], most: usize) -> String {
    let text = names.iter().take(most).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// How many names an error lists, unless there is a reason for another number.
pub const LISTED: usize = 12;

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free some disk space and run the command again".into()),
                std::io::ErrorKind::PermissionDenied => Some("check who owns the folder and its permissions".into()),
                _ => None,
            },
            Self::NotAFile { .. } => Some("use the path of a file".into()),
            Self::TooLarge { .. } => Some("check that this is the right file; it is much larger than expected".into()),
            Self::LfsPointer { .. } => {
                Some("run `git lfs pull` in the folder, or download the model by its repository name".into())
            }
            Self::LinkOut { .. } => Some("replace the link by a copy of the file, if it belongs to the model".into()),
            #[cfg(feature = "mlx")]
            Self::Mlx(exception) if raw::is_refused_by_system(exception.what()) => Some(
                "end other programs, raise the limit of this one (`ulimit`), or use a smaller model or prompt".into(),
            ),
            #[cfg(feature = "mlx")]
            Self::Weights(error) => error.hint(),
            #[cfg(feature = "mlx")]
            Self::Quant(error) => error.hint(),
            #[cfg(feature = "text")]
            Self::Text(error) => error.hint(),
            #[cfg(feature = "hub")]
            Self::Hub(error) => error.hint(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed(&["a"], 3), "`a`");
        assert_eq!(listed(&[1, 2, 3, 4, 5], 3), "`1`, `2`, `3` and 2 more");
    }
}
