//! GGUF files as models: metadata becomes a configuration, tensors get the names and the order of the original checkpoint, and
//! the rest of the way is that of a folder. And back: [`export()`] writes a model as such a file.
//!
//! [`mlxlm_core::weights::gguf`] reads the file; here is what differs from one architecture to another. Source: the converters of
//! llama.cpp (`conversion/*.py`), whose steps are undone. Unusual:
//! - The rows of queries and keys of Llama are in another order in the file; a permutation of rows works on packed rows too.
//! - The weights of Gemma's norms have one added in the file.
//! - The type of the model is the smallest that holds every scale and norm of the file exactly.

mod config;
mod export;
mod export_tokenizer;
mod family;
mod names;
mod rope;
mod tensors;

use std::path::Path;

use mlxlm_core::text::GgufTokenizer;
use mlxlm_core::weights::Tensors;
use mlxlm_core::weights::gguf::{GgufError, GgufFile};

pub use self::export::{export, export_model};
use self::family::Family;
use crate::{Error, ModelConfig, Result};

/// A GGUF file as the parts of a model.
#[derive(Debug)]
pub struct Opened {
    /// What `config.json` would say.
    pub config: ModelConfig,
    /// The tensors under the names of the original checkpoint.
    pub tensors: Tensors,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Whether a model is given as a file, which is then one of GGUF, and not as a folder.
pub fn is_file(path: impl AsRef<Path>) -> bool {
    path.as_ref().is_file()
}

/// Maps a file, or all parts of one that was split.
///
/// # Errors
/// Damaged files, types of tensors that are not read, and architectures that are not known, each by name.
pub fn open(path: impl AsRef<Path>) -> Result<Opened> {
    let file = GgufFile::open(path)?;
    let family = Family::of(file.metadata())?;
    let mut config = config::config(&file, family)?;
    let (tensors, warnings) = tensors::tensors(&file, family, &mut config)?;
    Ok(Opened { config, tensors, warnings })
}

/// The tokenizer in the metadata of a file.
pub fn tokenizer(path: impl AsRef<Path>) -> Result<GgufTokenizer> {
    Ok(GgufTokenizer::from_metadata(GgufFile::open(path)?.metadata())?)
}

impl From<GgufError> for Error {
    fn from(error: GgufError) -> Self {
        Self::Core(error.into())
    }
}
