//! The kinds of cache that an architecture declares for its layers.

use std::fmt;

use crate::{Error, Result};

/// What one layer of a model keeps of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheKind {
    /// All keys and values.
    Kv,
    /// The keys and values of the first `keep` tokens and of the latest others, `max_size` in all.
    Rotating {
        /// The tokens that are kept once the cache is full.
        max_size: i32,
        /// The first tokens that are never dropped.
        keep: i32,
    },
    /// The keys and values of the chunk of `chunk_size` tokens that is being read, and some before it (llama4).
    Chunked {
        /// Tokens in a chunk; a token attends within its own.
        chunk_size: i32,
    },
    /// A recurrent state: convolution tails, state-space matrices and the like.
    State {
        /// How many arrays the layer keeps.
        slots: usize,
    },
    /// The latest rows as they are and older ones compressed in groups (DeepSeek-V4.1).
    Compressed,
    /// Several caches for one layer.
    List(Vec<CacheKind>),
}

/// The kind as Python mlx-lm calls it: `KVCache`, `RotatingKVCache(4096, keep 0)`, `ArraysCache(2)`.
impl fmt::Display for CacheKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kv => f.write_str("KVCache"),
            Self::Rotating { max_size, keep } => write!(f, "RotatingKVCache({max_size}, keep {keep})"),
            Self::Chunked { .. } => f.write_str("ChunkedKVCache"),
            Self::State { slots } => write!(f, "ArraysCache({slots})"),
            Self::Compressed => f.write_str("LayerCache"),
            Self::List(kinds) => {
                let kinds: Vec<String> = kinds.iter().map(Self::to_string).collect();
                write!(f, "CacheList({})", kinds.join(", "))
            }
        }
    }
}

impl CacheKind {
    /// The kind's name in messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kv => "KV",
            Self::Rotating { .. } => "rotating",
            Self::Chunked { .. } => "chunked",
            Self::State { .. } => "recurrent-state",
            Self::Compressed => "compressed",
            Self::List(_) => "list",
        }
    }

    /// Whether there are keys and values in it.
    pub fn keeps_kv(&self) -> bool {
        match self {
            Self::State { .. } => false,
            Self::List(kinds) => kinds.iter().any(Self::keeps_kv),
            _ => true,
        }
    }

    /// Whether it keeps keys and values, one for each token, and nothing else.
    pub fn keeps_only_kv(&self) -> bool {
        match self {
            Self::State { .. } | Self::Compressed => false,
            Self::List(kinds) => kinds.iter().all(Self::keeps_only_kv),
            Self::Kv | Self::Rotating { .. } | Self::Chunked { .. } => true,
        }
    }

    /// Refuses a ring that has no room for a token beside those that are never dropped.
    pub(crate) fn check_room(&self) -> Result<()> {
        match self {
            &Self::Rotating { max_size, keep } if max_size <= keep => Err(Error::Room { max_size, keep }),
            Self::List(kinds) => kinds.iter().try_for_each(Self::check_room),
            _ => Ok(()),
        }
    }

    /// The same kind with at most `max_size` tokens of keys and values, of which the first four are never dropped.
    ///
    /// A window that is smaller already, a chunked or compressed layer and a recurrent state stay as they are.
    pub(crate) fn limited(&self, max_size: i32) -> Self {
        const KEEP: i32 = 4;
        match self {
            Self::Kv => Self::Rotating { max_size, keep: KEEP },
            Self::Rotating { max_size: window, keep } => {
                Self::Rotating { max_size: max_size.min(*window), keep: *keep }
            }
            Self::List(kinds) => Self::List(kinds.iter().map(|kind| kind.limited(max_size)).collect()),
            Self::Chunked { .. } | Self::State { .. } | Self::Compressed => self.clone(),
        }
    }
}
