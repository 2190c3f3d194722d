//! The cache of layers that attend within chunks: it keeps the last chunk's worth of tokens.
//!
//! Ports `ChunkedKVCache` and the chunk mask (`mlx_lm/models/{cache,llama4}.py` 0.32.2). Unusual: the
//! front is cut when the buffer is full and not at every token, which would copy the buffer each time.

use mlxlm_core::Array;
use mlxlm_core::fast::{Causal, Chunk};
use mlxlm_core::quant::Scheme;

use crate::attend::Reach;
use crate::buffer::{self, Buffer};
use crate::mask::Spec;
use crate::{Attend, Error, Result};

/// The keys and values of at least the last `chunk_size` tokens.
#[derive(Debug, Clone)]
pub struct ChunkedKvCache {
    pub(crate) buffer: Option<Buffer>,
    /// Tokens seen, those dropped included.
    pub(crate) offset: i32,
    /// The position of the first token held.
    pub(crate) start: i32,
    pub(crate) chunk_size: i32,
    pub(crate) scheme: Option<Scheme>,
}

impl ChunkedKvCache {
    pub(crate) fn new(chunk_size: i32) -> Self {
        Self { buffer: None, offset: 0, start: 0, chunk_size, scheme: None }
    }

    pub(crate) fn update(&mut self, keys: &Array, values: &Array, _how: &Attend) -> Result<Reach> {
        if self.chunk_size <= 0 {
            return Err(Error::Chunk { chunk_size: self.chunk_size });
        }
        let new = Buffer::new(keys, values, self.scheme)?;
        let (len, offset) = (new.len(), self.offset);
        let after = offset.checked_add(len).ok_or(Error::TooLong { held: offset, added: len })?;
        self.trim_front(len)?;
        let buffer = buffer::append(&mut self.buffer, offset - self.start, &new)?;
        self.offset = after;
        // The first query sees no further back than its own chunk begins.
        let first = (offset - offset % self.chunk_size).max(self.start);
        let chunk = Some(Chunk { size: self.chunk_size, first });
        let rule = Causal { chunk, padding: vec![-first; buffer.batch() as usize], ..Causal::default() };
        let spec = Spec { len, before: offset - first, rule };
        Ok(Reach { kv: buffer.view(first - self.start, after - self.start)?, spec })
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

    /// The keys and values held.
    pub(crate) fn held(&self) -> Result<Option<Buffer>> {
        match &self.buffer {
            Some(buffer) if self.offset > self.start => Ok(Some(buffer.view(0, self.offset - self.start)?)),
            _ => Ok(None),
        }
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset - self.start);
        self.offset -= n;
        n
    }
}
