//! The cache of layers that attend within chunks: it keeps the last chunk's worth of tokens.
//!
//! Ports `ChunkedKVCache` and the chunk mask (`mlx_lm/models/{cache,llama4}.py` 0.32.2). Unusual: the
//! front is cut when the buffer is full and not at every token, which would copy the buffer each time.

use mlxlm_core::fast::{Causal, Chunk};

use crate::buffer::{self, Buffer};
use crate::layer::Place;
use crate::mask::Spec;
use crate::{Error, KvFormat, Result};

/// The keys and values of at least the last `chunk_size` tokens.
#[derive(Debug, Clone)]
pub struct ChunkedKvCache {
    pub(crate) buffer: Option<Buffer>,
    /// Tokens seen, those dropped included.
    pub(crate) offset: i32,
    /// The position of the first token held.
    pub(crate) start: i32,
    pub(crate) chunk_size: i32,
    pub(crate) format: Option<KvFormat>,
}

impl ChunkedKvCache {
    pub(crate) fn new(chunk_size: i32) -> Self {
        Self { buffer: None, offset: 0, start: 0, chunk_size, format: None }
    }

    /// Makes room for the tokens of `new`, in `batch` rows, and counts them.
    pub(crate) fn place(&mut self, new: &Buffer, batch: i32) -> Result<Place> {
        if self.chunk_size <= 0 {
            return Err(Error::Chunk { chunk_size: self.chunk_size });
        }
        let (len, offset) = (new.len(), self.offset);
        let after = offset.checked_add(len).ok_or(Error::TooLong { held: offset, added: len })?;
        self.trim_front(len)?;
        let at = offset - self.start;
        buffer::make_room(&mut self.buffer, at, new, batch)?;
        self.offset = after;
        // The first query sees no further back than its own chunk begins.
        let first = (offset - offset % self.chunk_size).max(self.start);
        let chunk = Some(Chunk { size: self.chunk_size, first });
        let rule = Causal { chunk, padding: vec![-first; batch as usize], ..Causal::default() };
        let spec = Spec { len, before: offset - first, rule };
        Ok(Place { at, seen: first - self.start..after - self.start, spec })
    }

    /// Drops what no query can see, if `len` more tokens find no room.
    fn trim_front(&mut self, len: i32) -> Result<()> {
        let used = self.offset - self.start;
        let surplus = used - self.chunk_size;
        if let Some(buffer) = &self.buffer
            && surplus > 0
            && buffer.len() - used < len
        {
            self.buffer = Some(buffer.view(surplus, used)?);
            self.start += surplus;
        }
        Ok(())
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset - self.start);
        self.offset -= n;
        n
    }
}
