//! The kinds of cache that an architecture declares for its layers.

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
    /// Several caches for one layer.
    List(Vec<CacheKind>),
}

impl CacheKind {
    /// The kind's name in messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kv => "KV",
            Self::Rotating { .. } => "rotating",
            Self::Chunked { .. } => "chunked",
            Self::State { .. } => "recurrent-state",
            Self::List(_) => "list",
        }
    }

    /// The same kind with at most `max_size` tokens of keys and values, of which the first four are never dropped.
    ///
    /// A window that is smaller already, a chunked layer and a recurrent state stay as they are.
    pub(crate) fn limited(&self, max_size: i32) -> Self {
        const KEEP: i32 = 4;
        match self {
            Self::Kv => Self::Rotating { max_size, keep: KEEP },
            Self::Rotating { max_size: window, keep } => {
                Self::Rotating { max_size: max_size.min(*window), keep: *keep }
            }
            Self::List(kinds) => Self::List(kinds.iter().map(|kind| kind.limited(max_size)).collect()),
            Self::Chunked { .. } | Self::State { .. } => self.clone(),
        }
    }
}
