//! The cache that keeps every key and value.
//!
//! Ports `KVCache` and `QuantizedKVCache` (`mlx_lm/models/cache.py` 0.32.2). Unusual: a layer with a window reads the
//! part of the buffer that any of its queries can see, so a long context costs it nothing.

use mlxlm_core::Array;
use mlxlm_core::fast::Causal;
use mlxlm_core::quant::Scheme;

use crate::attend::Reach;
use crate::buffer::{self, Buffer};
use crate::mask::Spec;
use crate::{Attend, Result};

/// All keys and values of a sequence, or of several of the same length.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    pub(crate) buffer: Option<Buffer>,
    /// Tokens held; what lies behind them in the buffer is room.
    pub(crate) offset: i32,
    pub(crate) scheme: Option<Scheme>,
}

impl KvCache {
    pub(crate) fn update(&mut self, keys: &Array, values: &Array, how: &Attend) -> Result<Reach> {
        let new = Buffer::new(keys, values, self.scheme)?;
        let (len, offset) = (new.len(), self.offset);
        let buffer = buffer::append(&mut self.buffer, offset, &new)?;
        self.offset = offset + len;
        let rule = Causal { window: how.window, ..Causal::default() };
        Ok(Reach { kv: buffer.view(0, self.offset)?, spec: Spec { len, before: offset, rule } })
    }

    /// The keys and values held.
    pub(crate) fn held(&self) -> Result<Option<Buffer>> {
        match &self.buffer {
            Some(buffer) if self.offset > 0 => Ok(Some(buffer.view(0, self.offset)?)),
            _ => Ok(None),
        }
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        n
    }
}
