//! The cache that keeps a window: the first `keep` tokens and the latest others.
//!
//! Ports `RotatingKVCache` (`mlx_lm/models/cache.py` 0.32.2): single tokens go round in a ring, several at once are laid
//! behind the others in the order of time, after which up to `max_size + L - 1` are held, so that each of the `L`
//! queries sees `max_size` keys. Unusual: a window of the layer that is larger than the cache counts as the cache's own
//! size, and the ring's mask knows of `keep`.

use mlxlm_core::fast::{Causal, Ring};

use crate::attend::Part;
use crate::buffer::{Buffer, STEP};
use crate::layer::Place;
use crate::mask::Spec;
use crate::{Attend, Error, KvFormat, Result};

/// A window of the keys and values of a sequence, or of several of the same length.
#[derive(Debug, Clone)]
pub struct RotatingKvCache {
    pub(crate) buffer: Option<Buffer>,
    /// Tokens seen, those dropped included.
    pub(crate) offset: i32,
    /// Where the next token goes, if that is within the ring.
    pub(crate) idx: i32,
    pub(crate) keep: i32,
    pub(crate) max_size: i32,
    pub(crate) format: Option<KvFormat>,
}

impl RotatingKvCache {
    pub(crate) fn new(max_size: i32, keep: i32) -> Self {
        Self { buffer: None, offset: 0, idx: 0, keep, max_size, format: None }
    }

    /// Makes room for one token, in `batch` rows, and counts it.
    pub(crate) fn place(&mut self, new: &Buffer, batch: i32, how: &Attend) -> Result<Place> {
        let offset = self.check(new, batch)?;
        let spec = self.spec(new.len(), batch, how.window);
        let (buffer, at) = self.room_for_one(new, batch)?;
        let seen = 0..buffer.len().min(offset);
        (self.buffer, self.offset) = (Some(buffer), offset);
        Ok(Place { at, seen, spec })
    }

    /// Lays several tokens behind the others, in the order of time: what their queries see.
    pub(crate) fn lay(&mut self, new: Buffer, how: &Attend) -> Result<Part> {
        let offset = self.check(&new, new.batch())?;
        let spec = self.spec(new.len(), new.batch(), how.window);
        let kv = match self.in_order()? {
            None => new,
            Some(held) => {
                let held = self.without_oldest(&held, held.len() - self.max_size + 1)?;
                Buffer::concat(&[&held, &new], 2)?
            }
        };
        self.idx = kv.len();
        (self.buffer, self.offset) = (Some(kv.clone()), offset);
        Ok(Part { seen: 0..kv.len().min(offset), kv, spec })
    }

    /// Checks that `new` can follow, and says how many tokens are seen then.
    fn check(&self, new: &Buffer, batch: i32) -> Result<i32> {
        if self.keep < 0 || self.max_size <= self.keep {
            return Err(Error::Room { max_size: self.max_size, keep: self.keep });
        }
        if let Some(held) = &self.buffer {
            held.check_follows(new, batch)?;
        }
        self.offset.checked_add(new.len()).ok_or(Error::TooLong { held: self.offset, added: new.len() })
    }

    /// The rule for tokens that are about to be added.
    fn spec(&self, len: i32, batch: i32, window: Option<i32>) -> Spec {
        let before = self.offset.min(self.max_size - 1);
        let window = Some(window.map_or(self.max_size, |window| window.min(self.max_size)));
        let wrapped = len == 1 && self.offset >= self.max_size;
        let newest = if self.idx >= self.max_size { self.keep } else { self.idx };
        let ring = wrapped.then_some(Ring { keep: self.keep, newest });
        let padding = vec![before - self.offset; batch as usize];
        Spec { len, before, rule: Causal { window, padding, ring, ..Causal::default() } }
    }

    /// A buffer with room for one token, and where that goes.
    fn room_for_one(&mut self, new: &Buffer, batch: i32) -> Result<(Buffer, i32)> {
        let mut buffer = match self.buffer.take() {
            Some(buffer) if self.offset < buffer.len() || buffer.len() >= self.max_size => buffer,
            held => {
                let room = new.zeros(batch, STEP.min(self.max_size - self.offset))?;
                self.idx = self.offset;
                match held {
                    Some(held) => Buffer::concat(&[&held, &room], 2)?,
                    None => room,
                }
            }
        };
        let surplus = buffer.len() - self.max_size;
        if surplus > 0 {
            buffer = self.without_oldest(&buffer, surplus)?;
            self.idx = self.max_size;
        }
        if self.idx == self.max_size {
            self.idx = self.keep;
        }
        self.idx += 1;
        Ok((buffer, self.idx - 1))
    }

    /// Drops `n` tokens behind the first `keep` of a buffer in the order of time.
    fn without_oldest(&self, buffer: &Buffer, n: i32) -> Result<Buffer> {
        if n <= 0 {
            return Ok(buffer.clone());
        }
        let rest = buffer.view(n + self.keep, buffer.len())?;
        if self.keep == 0 { Ok(rest) } else { Buffer::concat(&[&buffer.view(0, self.keep)?, &rest], 2) }
    }

    /// The tokens held, in the order of time.
    pub(crate) fn in_order(&self) -> Result<Option<Buffer>> {
        let Some(buffer) = &self.buffer else { return Ok(None) };
        let (len, idx, keep) = (buffer.len(), self.idx, self.keep);
        if idx == len {
            return Ok(Some(buffer.clone()));
        }
        if idx >= self.offset {
            return buffer.view(0, idx).map(Some);
        }
        let (old, young) = (buffer.view(idx, len)?, buffer.view(keep, idx)?);
        let parts = if keep == 0 { vec![old, young] } else { vec![buffer.view(0, keep)?, old, young] };
        Buffer::concat(&parts.iter().collect::<Vec<_>>(), 2).map(Some)
    }

    /// Only before the first token is dropped is it known what lay before the last ones.
    pub(crate) fn is_trimmable(&self) -> bool {
        self.offset < self.max_size
    }

    /// Whether the last pass laid tokens behind all that lie in the order of time, so that they can be taken back.
    pub(crate) fn ends_in_pass(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.len() == self.idx && self.idx >= self.max_size)
    }

    /// Takes back the last `n` tokens of a pass of more, in a ring that is full.
    pub(crate) fn take_back(&mut self, n: i32) -> Result<()> {
        if let Some(buffer) = &self.buffer {
            self.buffer = Some(buffer.view(0, buffer.len() - n)?);
        }
        self.offset -= n;
        self.idx -= n;
        Ok(())
    }

    pub(crate) fn trim(&mut self, n: i32) -> i32 {
        let n = n.clamp(0, self.offset);
        self.offset -= n;
        self.idx -= n;
        n
    }
}
