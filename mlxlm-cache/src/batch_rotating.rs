//! The cache of a batch of sequences of different lengths that keeps a window of each.
//!
//! Ports `BatchRotatingKVCache` (`mlx_lm/models/cache.py` 0.32.2). Unusual: `keep` is given up when rows are merged, as
//! in the reference, because the first tokens of padded rows lie in different columns; and several tokens may follow
//! single ones that went round, where the reference's mask is off by the columns that it brings into order.

use mlxlm_core::Array;
use mlxlm_core::fast::{Causal, Ring};
use mlxlm_core::quant::Scheme;

use crate::attend::Reach;
use crate::batch::{check_rows, join_rows};
use crate::buffer::{Buffer, STEP};
use crate::mask::Spec;
use crate::rotating::RotatingKvCache;
use crate::{Attend, Error, Result};

/// A window of the keys and values of several sequences.
#[derive(Debug, Clone)]
pub struct BatchRotatingKvCache {
    pub(crate) buffer: Option<Buffer>,
    pub(crate) max_size: i32,
    /// The position of each row's next token.
    pub(crate) offsets: Vec<i32>,
    /// Columns in front of each row, in the order of time, that hold no token of it; negative once it lost tokens.
    pub(crate) left_padding: Vec<i32>,
    /// Columns seen, those dropped included.
    pub(crate) seen: i32,
    /// Where the next column goes, if that is within the ring.
    pub(crate) idx: i32,
    /// Whether the oldest columns are being overwritten.
    pub(crate) rotated: bool,
    pub(crate) scheme: Option<Scheme>,
}

impl BatchRotatingKvCache {
    /// An empty cache whose first tokens will be padded by these numbers.
    pub(crate) fn new(max_size: i32, left_padding: &[i32]) -> Self {
        Self {
            buffer: None,
            max_size,
            offsets: left_padding.iter().map(|padding| -padding).collect(),
            left_padding: left_padding.to_vec(),
            seen: 0,
            idx: 0,
            rotated: false,
            scheme: None,
        }
    }

    pub(crate) fn update(&mut self, keys: &Array, values: &Array, how: &Attend) -> Result<Reach> {
        if self.max_size <= 0 {
            return Err(Error::Room { max_size: self.max_size, keep: 0 });
        }
        let new = Buffer::new(keys, values, self.scheme)?;
        check_rows(&new, self.left_padding.len())?;
        if let Some(held) = &self.buffer {
            held.check_follows(&new)?;
        }
        let added = new.len();
        let seen = self.seen.checked_add(added).ok_or(Error::TooLong { held: self.seen, added })?;
        let spec = self.spec(added, how.window);
        let buffer = if added == 1 { self.update_in_place(&new)? } else { self.update_concat(new)? };
        let kv = buffer.view(0, buffer.len().min(seen))?;
        (self.buffer, self.seen) = (Some(buffer), seen);
        self.offsets.iter_mut().for_each(|offset| *offset = offset.saturating_add(added));
        Ok(Reach { kv, spec })
    }

    /// The rule for `len` columns that are about to be added.
    fn spec(&self, len: i32, window: Option<i32>) -> Spec {
        let before = self.seen.min(self.max_size - 1);
        let window = Some(window.map_or(self.max_size, |window| window.min(self.max_size)));
        let wraps = len == 1 && (self.rotated || self.idx >= self.max_size);
        let newest = if self.idx >= self.max_size { 0 } else { self.idx };
        let padding = self.offsets.iter().map(|&offset| before.saturating_sub(offset)).collect();
        let ring = wraps.then_some(Ring { keep: 0, newest });
        Spec { len, before, rule: Causal { window, padding, ring, ..Causal::default() } }
    }

    fn update_concat(&mut self, new: Buffer) -> Result<Buffer> {
        self.put_in_order()?;
        let buffer = match &self.buffer {
            None => new,
            Some(held) => {
                let surplus = (self.idx - self.max_size + 1).max(0);
                let rest = held.view(surplus, self.idx)?;
                self.shift_padding(-surplus);
                Buffer::concat(&[&rest, &new], 2)?
            }
        };
        self.idx = buffer.len();
        Ok(buffer)
    }

    fn update_in_place(&mut self, new: &Buffer) -> Result<Buffer> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) if self.seen < buffer.len() || buffer.len() >= self.max_size => buffer,
            held => {
                let room = new.zeros(new.batch(), STEP.min(self.max_size - self.seen))?;
                self.idx = self.seen;
                match held {
                    Some(held) => Buffer::concat(&[&held, &room], 2)?,
                    None => room,
                }
            }
        };
        let surplus = buffer.len() - self.max_size;
        if surplus > 0 {
            buffer = buffer.view(surplus, buffer.len())?;
            self.idx = self.max_size;
            self.shift_padding(-surplus);
        }
        if self.idx == self.max_size {
            self.rotated = true;
            self.idx = 0;
        }
        if self.rotated {
            self.shift_padding(-1);
        }
        buffer.write(self.idx, new)?;
        self.idx += 1;
        Ok(buffer)
    }

    /// Lays the columns in the order of time and drops the room behind them.
    fn put_in_order(&mut self) -> Result<()> {
        let Some(buffer) = &self.buffer else { return Ok(()) };
        let len = buffer.len();
        let ordered = if self.rotated {
            Buffer::concat(&[&buffer.view(self.idx, len)?, &buffer.view(0, self.idx)?], 2)?
        } else {
            buffer.view(0, self.idx)?
        };
        self.idx = ordered.len();
        self.rotated = false;
        self.buffer = Some(ordered);
        Ok(())
    }

    fn shift_padding(&mut self, by: i32) {
        self.left_padding.iter_mut().for_each(|padding| *padding = padding.saturating_add(by));
    }

    /// What the buffer holds, in the order in which it lies there.
    pub(crate) fn held(&self) -> Result<Option<Buffer>> {
        match &self.buffer {
            Some(buffer) if self.seen > 0 => Ok(Some(buffer.view(0, buffer.len().min(self.seen))?)),
            _ => Ok(None),
        }
    }

    /// Only before the first column is dropped is it known what lay before the last ones.
    pub(crate) fn is_trimmable(&self) -> bool {
        self.seen < self.max_size
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.seen);
        self.seen -= n;
        self.idx -= n;
        self.offsets.iter_mut().for_each(|offset| *offset = offset.saturating_sub(n));
        n
    }

    /// Keeps the given rows.
    pub(crate) fn filter(&mut self, rows: &[i32]) -> Result<()> {
        self.buffer = self.buffer.as_ref().map(|buffer| buffer.rows(rows)).transpose()?;
        self.offsets = rows.iter().map(|&row| self.offsets[row as usize]).collect();
        self.left_padding = rows.iter().map(|&row| self.left_padding[row as usize]).collect();
        Ok(())
    }

    /// The rows of `self` and those of `other`, aligned at their ends.
    pub(crate) fn extend(&mut self, other: &Self) -> Result<()> {
        if self.max_size != other.max_size {
            return Err(unlike_sizes(self.max_size, other.max_size));
        }
        let mut other = other.clone();
        self.put_in_order()?;
        other.put_in_order()?;
        let idx = self.idx.max(other.idx);
        self.shift_padding(idx - self.idx);
        other.shift_padding(idx - other.idx);
        let rows = (self.left_padding.len(), other.left_padding.len());
        self.buffer = join_rows(&[(self.buffer.take(), rows.0), (other.buffer.take(), rows.1)])?;
        self.left_padding.extend(other.left_padding);
        self.offsets.extend(other.offsets);
        self.idx = idx;
        self.seen = self.seen.max(other.seen);
        Ok(())
    }

    pub(crate) fn extract(&self, row: i32) -> Result<RotatingKvCache> {
        let mut one = self.clone();
        one.filter(&[row])?;
        one.put_in_order()?;
        let padding = one.left_padding[0].clamp(0, one.idx);
        let buffer = one.buffer.as_ref().map(|buffer| buffer.view(padding, one.idx)).transpose()?;
        let idx = buffer.as_ref().map_or(0, Buffer::len);
        let offset = one.offsets[0].max(idx);
        Ok(RotatingKvCache { buffer, offset, idx, keep: 0, max_size: self.max_size, scheme: self.scheme })
    }

    pub(crate) fn merge(caches: &[&RotatingKvCache]) -> Result<Self> {
        let max_size = caches.first().map_or(0, |cache| cache.max_size);
        if let Some(other) = caches.iter().find(|cache| cache.max_size != max_size) {
            return Err(unlike_sizes(max_size, other.max_size));
        }
        let held = caches.iter().map(|cache| {
            let latest = cache.in_order()?.map(|held| held.view(held.len() - cache.size(), held.len())).transpose()?;
            Ok((latest.filter(|held| held.len() > 0), 1))
        });
        let idx = caches.iter().map(|cache| cache.size()).max().unwrap_or(0);
        Ok(Self {
            buffer: join_rows(&held.collect::<Result<Vec<_>>>()?)?,
            max_size,
            offsets: caches.iter().map(|cache| cache.offset).collect(),
            left_padding: caches.iter().map(|cache| idx - cache.size()).collect(),
            seen: idx,
            idx,
            rotated: false,
            scheme: caches.first().and_then(|cache| cache.scheme),
        })
    }
}

fn unlike_sizes(a: i32, b: i32) -> Error {
    Error::Unlike { what: format!("rotating caches of {a} and of {b} tokens") }
}
