//! The cache of a batch of sequences of different lengths: shorter rows are padded on the left.
//!
//! Ports `BatchKVCache` (`mlx_lm/models/cache.py` 0.32.2). Unusual: padding is a list of numbers of ours, not an array on
//! the device, so a batch in which no row is padded needs no mask.

use mlxlm_core::Array;
use mlxlm_core::fast::Causal;
use mlxlm_core::quant::Scheme;

use crate::attend::Reach;
use crate::buffer::{self, Buffer};
use crate::kv::KvCache;
use crate::mask::Spec;
use crate::{Attend, Error, Result};

/// All keys and values of several sequences.
#[derive(Debug, Clone)]
pub struct BatchKvCache {
    pub(crate) buffer: Option<Buffer>,
    /// Columns in use; what lies behind them in the buffer is room.
    pub(crate) idx: i32,
    /// Columns in front of each row that hold no token of it.
    pub(crate) left_padding: Vec<i32>,
    pub(crate) scheme: Option<Scheme>,
}

impl BatchKvCache {
    /// An empty cache whose first tokens will be padded by these numbers.
    pub(crate) fn new(left_padding: &[i32]) -> Self {
        Self { buffer: None, idx: 0, left_padding: left_padding.to_vec(), scheme: None }
    }

    pub(crate) fn update(&mut self, keys: &Array, values: &Array, how: &Attend) -> Result<Reach> {
        let new = Buffer::new(keys, values, self.scheme)?;
        check_rows(&new, self.left_padding.len())?;
        let (len, idx) = (new.len(), self.idx);
        let buffer = buffer::append(&mut self.buffer, idx, &new)?;
        self.idx = idx + len;
        let rule = Causal { window: how.window, padding: self.left_padding.clone(), ..Causal::default() };
        Ok(Reach { kv: buffer.view(0, self.idx)?, spec: Spec { len, before: idx, rule } })
    }

    /// The position of each row's next token.
    pub(crate) fn offsets(&self) -> Vec<i32> {
        self.left_padding.iter().map(|padding| self.idx - padding).collect()
    }

    /// The columns in use.
    pub(crate) fn held(&self) -> Result<Option<Buffer>> {
        match &self.buffer {
            Some(buffer) if self.idx > 0 => Ok(Some(buffer.view(0, self.idx)?)),
            _ => Ok(None),
        }
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.idx);
        self.idx -= n;
        n
    }

    /// Keeps the given rows; columns that no row uses any more are dropped.
    pub(crate) fn filter(&mut self, rows: &[i32]) -> Result<()> {
        self.left_padding = rows.iter().map(|&row| self.left_padding[row as usize]).collect();
        let unused = self.left_padding.iter().copied().min().unwrap_or(0).clamp(0, self.idx);
        self.buffer = self.held()?.map(|held| held.view(unused, self.idx)?.rows(rows)).transpose()?;
        if self.buffer.is_some() {
            self.idx -= unused;
            self.left_padding.iter_mut().for_each(|padding| *padding -= unused);
        }
        Ok(())
    }

    /// The rows of `self` and those of `other`, aligned at their ends.
    pub(crate) fn extend(&mut self, other: &Self) -> Result<()> {
        let idx = self.idx.max(other.idx);
        self.buffer = join_rows(&[(self.held()?, self.left_padding.len()), (other.held()?, other.left_padding.len())])?;
        let shifted = |cache: &Self| {
            cache.left_padding.iter().map(|padding| padding.saturating_add(idx - cache.idx)).collect::<Vec<_>>()
        };
        self.left_padding = [shifted(self), shifted(other)].concat();
        self.idx = idx;
        Ok(())
    }

    pub(crate) fn extract(&self, row: i32) -> Result<KvCache> {
        let padding = self.left_padding[row as usize].clamp(0, self.idx);
        let buffer = self.held()?.map(|held| held.view(padding, self.idx)?.rows(&[row])).transpose()?;
        let offset = buffer.as_ref().map_or(0, Buffer::len);
        Ok(KvCache { buffer, offset, scheme: self.scheme })
    }

    pub(crate) fn merge(caches: &[&KvCache]) -> Result<Self> {
        let held = caches.iter().map(|cache| Ok((cache.held()?, 1))).collect::<Result<Vec<_>>>()?;
        let idx = caches.iter().map(|cache| cache.offset).max().unwrap_or(0);
        Ok(Self {
            buffer: join_rows(&held)?,
            idx,
            left_padding: caches.iter().map(|cache| idx - cache.offset).collect(),
            scheme: caches.first().and_then(|cache| cache.scheme),
        })
    }
}

/// Checks that there is one row for each of the batch.
pub(crate) fn check_rows(new: &Buffer, rows: usize) -> Result<()> {
    if new.batch() as usize == rows {
        return Ok(());
    }
    Err(Error::Shape { what: "keys", expected: format!("[{rows}, K, L, d]"), got: new.keys.shape().to_vec() })
}

/// Rows of buffers below each other, aligned at their ends; an absent one stands for as many empty rows as it says.
pub(crate) fn join_rows(parts: &[(Option<Buffer>, usize)]) -> Result<Option<Buffer>> {
    let len = parts.iter().filter_map(|(buffer, _)| buffer.as_ref()).map(Buffer::len).max().unwrap_or(0);
    let Some(like) = parts.iter().find_map(|(buffer, _)| buffer.as_ref()) else { return Ok(None) };
    let mut padded = Vec::with_capacity(parts.len());
    for (buffer, rows) in parts {
        padded.push(match buffer {
            None => like.zeros(*rows as i32, len)?,
            Some(buffer) => {
                check_rows(buffer, *rows)?;
                check_like(like, buffer)?;
                buffer.padded(len - buffer.len())?
            }
        });
    }
    Buffer::concat(&padded.iter().collect::<Vec<_>>(), 0).map(Some)
}

fn check_like(a: &Buffer, b: &Buffer) -> Result<()> {
    let told = |buffer: &Buffer| {
        let ([_, heads, _, keys], [.., values]) = (buffer.keys.shape(), buffer.values.shape());
        let format = buffer.scheme().map_or_else(|| format!("{:?}", buffer.keys.dtype()), |scheme| scheme.to_string());
        format!("{heads} heads of the widths {keys} and {values}, {format}")
    };
    let (a, b) = (told(a), told(b));
    if a == b { Ok(()) } else { Err(Error::Unlike { what: format!("{a} against {b}") }) }
}
