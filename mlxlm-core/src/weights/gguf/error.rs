//! What can be wrong with a GGUF file.

use std::path::PathBuf;

use super::TensorType;
use crate::Hint;

/// What can be wrong with a GGUF file.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file contradicts itself or is cut short.
    #[error("`{path}` is not a valid GGUF file: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// The file is sound and holds what is not read here.
    #[error("`{path}` cannot be read: {what}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
    /// An entry of the metadata is missing or has a value that makes no sense.
    #[error("`{key}` in the metadata of `{path}` {why}", path = path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A part of a split file is not there or not the one that was expected.
    #[error("`{path}` {why}", path = path.display())]
    Part {
        /// The part.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Hint for GgufError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Damaged { .. } => "download the file again; it may be incomplete".into(),
            Self::Unsupported { .. } => {
                let names: Vec<&str> = TensorType::ALL.iter().map(|kind| kind.name()).collect();
                format!("GGUF of version 2 or 3, little-endian, with tensors of the types {} is read", names.join(", "))
            }
            Self::Metadata { .. } => "convert the original model to GGUF again, or use the original model".into(),
            Self::Part { .. } => "use the first part, `…-00001-of-….gguf`, with all others in the same folder".into(),
        })
    }
}

impl From<GgufError> for crate::Error {
    fn from(error: GgufError) -> Self {
        crate::weights::WeightsError::from(error).into()
    }
}
