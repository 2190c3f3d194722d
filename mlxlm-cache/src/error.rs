//! What can go wrong with a cache, and with a file of one.

use std::path::PathBuf;

use mlxlm_core::error::{LISTED, listed};
use mlxlm_core::ops::indexing::IndexUpdateError;
use mlxlm_core::quant::{Mode, QuantError, Scheme};
use mlxlm_core::{Dtype, Exception, Hint};

use crate::KvFormat;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of MLX failed, or a file could not be read or written.
    #[error(transparent)]
    Core(#[from] mlxlm_core::Error),

    /// Keys or values of another shape than those in the cache.
    #[error("{what} of the shape {got:?} do not fit a cache of {expected}")]
    Shape {
        /// "keys" or "values".
        what: &'static str,
        /// What the cache holds.
        expected: String,
        /// What was to be added.
        got: Vec<i32>,
    },

    /// An option of [`SnapKv`](crate::SnapKv) means nothing.
    #[error("`{name}` of SnapKV is {value}, expected {expected}")]
    SnapKv {
        /// The option.
        name: &'static str,
        /// Its value.
        value: i32,
        /// The values it may take.
        expected: &'static str,
    },

    /// More tokens than 32-bit positions can count.
    #[error("the cache holds {held} tokens, and {added} more are beyond 32-bit positions")]
    TooLong {
        /// The tokens in the cache.
        held: i32,
        /// The tokens that were to be added.
        added: i32,
    },

    /// A rotating cache without room for a token beside those that are never dropped.
    #[error("a rotating cache of {max_size} tokens is too small: the first {keep} tokens are always kept")]
    Room {
        /// The tokens it was to hold.
        max_size: i32,
        /// The first tokens, which are never dropped.
        keep: i32,
    },

    /// A layer that sees no token.
    #[error("a window must hold at least one token, not {window}")]
    Window {
        /// The tokens that it was to see.
        window: i32,
    },

    /// A chunked cache with chunks of no tokens.
    #[error("a chunk must hold at least one token, not {chunk_size}")]
    Chunk {
        /// Tokens in a chunk.
        chunk_size: i32,
    },

    /// A kind of cache that does not offer the operation.
    #[error("a {kind} cache cannot {action}")]
    Kind {
        /// What was tried, as in "attend".
        action: &'static str,
        /// The kind.
        kind: &'static str,
    },

    /// Caches of different kinds or sizes where alike ones are needed.
    #[error("the caches of the rows differ: {what}")]
    Unlike {
        /// In what they differ.
        what: String,
    },

    /// A batch without rows.
    #[error("a batch needs at least one row")]
    NoRows,

    /// A row that is not in the batch.
    #[error("row {row} is not in a batch of {batch}")]
    Row {
        /// The row that was asked for.
        row: i32,
        /// The rows in the batch.
        batch: usize,
    },

    /// A layer that is not there.
    #[error("there is no cache for layer {layer}, only for {layers} layers")]
    Layer {
        /// The layer that was asked for.
        layer: usize,
        /// The layers with a cache.
        layers: usize,
    },

    /// An array of a recurrent state that is not there.
    #[error("there is no array {slot} in a recurrent state of {slots}")]
    Slot {
        /// The array that was asked for.
        slot: usize,
        /// The arrays in the state.
        slots: usize,
    },

    /// A quantization that MLX does not have.
    #[error(transparent)]
    Scheme(#[from] QuantError),

    /// Keys or values whose width is no multiple of the quantization group.
    #[error("keys and values of the widths {keys} and {values} cannot be quantized in groups of {group_size}")]
    Group {
        /// The width of a key.
        keys: i32,
        /// The width of a value.
        values: i32,
        /// The group that was asked for.
        group_size: i32,
    },

    /// A cache that is quantized already, and otherwise.
    #[error("the cache is already quantized: {held}, not {asked}")]
    Requantize {
        /// How it is quantized.
        held: KvFormat,
        /// What was asked for.
        asked: KvFormat,
    },

    /// No layer keeps keys and values.
    #[error("no layer of this model keeps keys and values that could be quantized; its caches are {kinds}")]
    NothingToQuantize {
        /// The kinds of the caches.
        kinds: String,
    },

    /// Caches that have not read the tokens that they are to be kept for.
    #[error("caches that have read {read} tokens cannot be kept for {tokens}")]
    Read {
        /// The tokens that a layer has read.
        read: i32,
        /// The tokens that were given.
        tokens: usize,
    },

    /// Caches of another model.
    #[error("the caches do not fit the model: {what}")]
    Misfit {
        /// In what they differ.
        what: String,
    },

    /// A file that is no prompt cache, or a damaged one.
    #[error("`{path}` is not a usable prompt cache: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
}

/// What is wrong with a prompt-cache file. Keys are those of the file: `{layer}.{part}` for arrays.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// The metadata is not that of either layout.
    #[error("its metadata has no `{key}`")]
    NoMetadata {
        /// The key.
        key: String,
    },
    /// A string of the metadata makes no sense.
    #[error("its metadata `{key}` is `{got}`, expected {expected}")]
    Metadata {
        /// The key.
        key: String,
        /// The string.
        got: String,
        /// What it could be.
        expected: &'static str,
    },
    /// A class of cache that is not known.
    #[error("the cache `{at}` is of the class `{class}`, which is not known")]
    Class {
        /// The layer, and its part in a list.
        at: String,
        /// The class name.
        class: String,
    },
    /// An array is missing.
    #[error("it has no array `{key}`")]
    NoArray {
        /// The key.
        key: String,
    },
    /// An array has another shape.
    #[error("its array `{key}` is {got:?}, expected {expected}")]
    Shape {
        /// The key.
        key: String,
        /// The shape.
        got: Vec<i32>,
        /// What it should be.
        expected: String,
    },
    /// An array has another type.
    #[error("its array `{key}` is of the type {got:?}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// The type.
        got: Dtype,
        /// What it could be.
        expected: &'static str,
    },
    /// A number is out of bounds.
    #[error("its `{key}` ({what}) is {got}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// What the number means.
        what: &'static str,
        /// The number.
        got: i64,
        /// What it could be.
        expected: String,
    },
    /// Arrays that belong to no cache.
    #[error("it has unexpected arrays {}", listed(keys, LISTED))]
    LeftOver {
        /// The keys.
        keys: Vec<String>,
    },
    /// It is not the entry of a store that its name promises.
    #[error("as an entry of a store, {why}")]
    Entry {
        /// What is wrong.
        why: String,
    },
    /// Lists in lists in lists.
    #[error("its cache `{at}` is nested too deeply")]
    Depth {
        /// The layer, and its part in the lists.
        at: String,
    },
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Exception> for Error {
    fn from(exception: Exception) -> Self {
        Self::Core(exception.into())
    }
}

impl From<IndexUpdateError> for Error {
    fn from(error: IndexUpdateError) -> Self {
        match error {
            IndexUpdateError::Exception(exception) => exception.into(),
            stride @ IndexUpdateError::ZeroStride { .. } => Exception::custom(stride.to_string()).into(),
        }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Core(error) => error.hint(),
            Self::Scheme(error) => error.hint(),
            Self::Room { keep, .. } => Some(format!("use a size of more than {keep} tokens")),
            Self::Group { keys, values, .. } => Some(groups_that_fit(*keys, *values)),
            Self::Requantize { held, .. } => Some(format!("use {held}, as in the cache")),
            Self::NothingToQuantize { .. } => Some("do not quantize the cache".into()),
            Self::Kind { action: READ_PLAIN, .. } => Some("do not quantize the cache of this architecture".into()),
            Self::Misfit { .. } => Some("use the cache with the model it was made with".into()),
            Self::File { problem, .. } => Some(match problem {
                FileProblem::NoMetadata { .. } => "prompt caches are made by `mlxlm cache_prompt`".into(),
                _ => "make the prompt cache again".into(),
            }),
            _ => None,
        }
    }
}

/// Which groups the widths of keys and values can be quantized in.
fn groups_that_fit(keys: i32, values: i32) -> String {
    let fits = |group: &i32| {
        let scheme = Scheme { group_size: *group, ..Mode::Affine.default_scheme() };
        scheme.divides(keys) && scheme.divides(values)
    };
    let fitting: Vec<String> = [32, 64, 128].iter().filter(|group| fits(group)).map(i32::to_string).collect();
    match fitting.is_empty() {
        true => "no group fits these widths; do not quantize the cache".into(),
        false => format!("use groups of {}, or do not quantize the cache", fitting.join(" or ")),
    }
}

/// The action of [`Error::Kind`] for architectures that compute with the keys and values themselves.
pub(crate) const READ_PLAIN: &str = "hand out its keys and values as they were";
