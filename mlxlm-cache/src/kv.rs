//! The cache that keeps every key and value.
//!
//! Ports `KVCache` and `QuantizedKVCache` (`mlx_lm/models/cache.py` 0.32.2). Unusual: a layer with a window reads the
//! part of the buffer that any of its queries can see, so a long context costs it nothing.

use mlxlm_core::fast::Causal;

use crate::buffer::{self, Buffer};
use crate::layer::Place;
use crate::mask::Spec;
use crate::snapkv::Watch;
use crate::{Attend, Error, KvFormat, Result};

/// All keys and values of a sequence, or of several of the same length; without those that were [evicted](crate::SnapKv).
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    /// The tokens held; behind them is room.
    pub(crate) buffer: Option<Buffer>,
    /// Tokens read, hence the position of the next.
    pub(crate) offset: i32,
    /// Those of them that are not held any more.
    pub(crate) evicted: i32,
    /// The latest tokens, all of which are held.
    pub(crate) tail: i32,
    pub(crate) format: Option<KvFormat>,
    pub(crate) watch: Option<Watch>,
}

impl KvCache {
    /// A cache that holds all of the first `offset` tokens.
    pub(crate) fn of(buffer: Option<Buffer>, offset: i32, format: Option<KvFormat>) -> Self {
        Self { buffer, offset, tail: offset, format, ..Self::default() }
    }

    /// Makes room for the tokens of `new`, in `batch` rows, and counts them.
    pub(crate) fn place(&mut self, new: &Buffer, batch: i32, how: &Attend) -> Result<Place> {
        let (len, at) = (new.len(), self.count());
        let offset = self.offset.checked_add(len).ok_or(Error::TooLong { held: self.offset, added: len })?;
        buffer::make_room(&mut self.buffer, at, new, batch)?;
        (self.offset, self.tail) = (offset, self.tail + len);
        let rule = Causal { window: how.window, ..Causal::default() };
        Ok(Place { at, seen: 0..at + len, spec: Spec { len, before: at, rule } })
    }

    /// Tokens held.
    pub(crate) fn count(&self) -> i32 {
        self.offset - self.evicted
    }

    /// The keys and values held.
    pub(crate) fn held(&self) -> Result<Option<Buffer>> {
        match &self.buffer {
            Some(buffer) if self.count() > 0 => Ok(Some(buffer.view(0, self.count())?)),
            _ => Ok(None),
        }
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.tail);
        self.offset -= n;
        self.tail -= n;
        n
    }
}
