//! The cache of one layer, whichever kind it is.

use std::ops::Range;

use mlxlm_core::{Array, Dtype};

use crate::attend::{Part, Reach};
use crate::buffer::{Buffer, STEP};
use crate::chunked::ChunkedKvCache;
use crate::compressed::CompressedCache;
use crate::kv::KvCache;
use crate::mask::Spec;
use crate::rotating::RotatingKvCache;
use crate::state::{Replay, StateCache};
use crate::{Attend, CacheKind, Error, KvFormat, Masks, Result, rows};

/// The position of the next token, as rotary embeddings need it.
#[derive(Debug, Clone)]
pub enum Offset {
    /// All rows are there.
    Same(i32),
    /// Each row is elsewhere: `i32` `[B]`.
    Rows(Array),
    /// Each token has a place of its own, as in rows of several documents: `i32` `[B, L]`.
    Tokens(Array),
}

/// What one layer keeps. A clone shares its arrays and costs nothing; see [`crate::Caches::snap`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LayerCache {
    /// All keys and values.
    Kv(KvCache),
    /// A window of them.
    Rotating(RotatingKvCache),
    /// The last chunk of them.
    Chunked(ChunkedKvCache),
    /// A recurrent state.
    State(StateCache),
    /// The latest rows, and older ones in groups.
    Compressed(CompressedCache),
    /// Several caches for one layer.
    List(Vec<LayerCache>),
    /// Those of several sequences, for one pass over them all.
    Rows(Vec<LayerCache>),
}

/// Where the next tokens go in a buffer, and what their queries then see of it.
#[derive(Debug)]
pub(crate) struct Place {
    pub at: i32,
    pub seen: Range<i32>,
    pub spec: Spec,
}

impl LayerCache {
    /// An empty cache.
    pub fn new(kind: &CacheKind) -> Self {
        match kind {
            CacheKind::Kv => Self::Kv(KvCache::default()),
            CacheKind::Rotating { max_size, keep } => Self::Rotating(RotatingKvCache::new(*max_size, *keep)),
            CacheKind::Chunked { chunk_size } => Self::Chunked(ChunkedKvCache::new(*chunk_size)),
            CacheKind::State { slots } => Self::State(StateCache::new(*slots)),
            CacheKind::Compressed => Self::Compressed(CompressedCache::default()),
            CacheKind::List(kinds) => Self::List(kinds.iter().map(Self::new).collect()),
        }
    }

    /// The kind's name in messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kv(_) => "KV",
            Self::Rotating(_) => "rotating",
            Self::Chunked(_) => "chunked",
            Self::State(_) => "recurrent-state",
            Self::Compressed(_) => "compressed",
            Self::List(_) => "list",
            Self::Rows(_) => "batch",
        }
    }

    /// Adds the keys and values of the next tokens and lets their queries attend to what the cache then holds.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`, result: `[B, H, L, e]`
    pub fn attend(&mut self, q: &Array, k: &Array, v: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
        self.remember(k, v, how)?.attend(q, how, masks)
    }

    /// Adds the keys and values of the next tokens, and hands out what their queries see.
    ///
    /// # Shapes
    /// - `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`
    pub fn remember(&mut self, k: &Array, v: &Array, how: &Attend) -> Result<Reach> {
        how.check()?;
        match self {
            Self::Kv(_) | Self::Rotating(_) | Self::Chunked(_) => {
                let new = Buffer::new(k, v, self.format())?;
                Ok(Reach::from(vec![self.lay(new, how)?]))
            }
            Self::Rows(rows) => rows::remember(rows, k, v, how),
            Self::State(_) | Self::Compressed(_) | Self::List(_) => Err(self.no_kv()),
        }
    }

    /// Adds keys and values in the format of this cache.
    pub(crate) fn lay(&mut self, new: Buffer, how: &Attend) -> Result<Part> {
        if let Self::Rotating(cache) = self
            && new.len() > 1
        {
            return cache.lay(new, how);
        }
        let Place { at, seen, spec } = self.place(&new, new.batch(), how)?;
        let Some(buffer) = self.buffer_mut() else { return Err(self.no_kv()) };
        buffer.write(at, &new)?;
        Ok(Part { kv: buffer.clone(), seen, spec })
    }

    /// Whether `len` tokens can be written over room in the buffer.
    pub(crate) fn has_place(&self, len: i32) -> bool {
        matches!(self, Self::Kv(_) | Self::Chunked(_)) || len == 1 && matches!(self, Self::Rotating(_))
    }

    /// Makes room for the tokens of `new` in `batch` rows, of which it has as many or one of them, and counts them as read.
    pub(crate) fn place(&mut self, new: &Buffer, batch: i32, how: &Attend) -> Result<Place> {
        match self {
            Self::Kv(cache) => cache.place(new, batch, how),
            Self::Rotating(cache) => cache.place(new, batch, how),
            Self::Chunked(cache) => cache.place(new, batch),
            _ => Err(self.no_kv()),
        }
    }

    /// An array of a recurrent state, of all rows; nothing before the first token.
    pub fn recall(&self, slot: usize) -> Result<Option<Array>> {
        match self {
            Self::State(state) => state.get(slot),
            Self::Rows(rows) => rows::recall(rows, slot),
            _ => Err(self.no_state()),
        }
    }

    /// Replaces an array of a recurrent state; the first axis is the batch. `replay` says how the pass made it, for
    /// [`crate::Caches::take_back`].
    pub fn keep(&mut self, slot: usize, array: Array, replay: Option<&Replay>) -> Result<()> {
        match self {
            Self::State(state) => state.set(slot, array, replay),
            Self::Rows(rows) => rows::keep(rows, slot, array, replay),
            _ => Err(self.no_state()),
        }
    }

    /// See [`crate::Caches::note_pass`].
    pub(crate) fn note_pass(&mut self, noted: bool) {
        match self {
            Self::State(state) => state.note_pass(noted),
            Self::List(caches) | Self::Rows(caches) => caches.iter_mut().for_each(|cache| cache.note_pass(noted)),
            _ => {}
        }
    }

    /// The type that the matrices of a recurrent state are kept in: f32, unless [they are to be narrow](crate::Caches::narrow_states).
    pub fn matrix_dtype(&self) -> Dtype {
        match self {
            Self::State(state) => state.matrix_dtype(),
            Self::Rows(rows) => rows.first().map_or(Dtype::Float32, Self::matrix_dtype),
            _ => Dtype::Float32,
        }
    }

    /// See [`crate::Caches::narrow_states`].
    pub(crate) fn narrow_states(&mut self, narrow: bool) {
        match self {
            Self::State(state) => state.set_narrow(narrow),
            Self::List(caches) | Self::Rows(caches) => caches.iter_mut().for_each(|cache| cache.narrow_states(narrow)),
            _ => {}
        }
    }

    /// See [`crate::Caches::have_narrow_states`].
    pub(crate) fn has_narrow_states(&self) -> bool {
        match self {
            Self::State(state) => state.has_narrow(),
            Self::List(caches) | Self::Rows(caches) => caches.iter().any(Self::has_narrow_states),
            _ => false,
        }
    }

    /// The position of the next token. A recurrent state does not know it and says zero.
    pub fn offset(&self) -> Offset {
        let rows = match self {
            Self::Rows(rows) => rows,
            Self::List(caches) => {
                return caches.iter().find(|cache| cache.keeps_kv()).map_or(Offset::Same(0), Self::offset);
            }
            alone => return Offset::Same(alone.read()),
        };
        let offsets: Vec<i32> = rows.iter().map(Self::read).collect();
        match offsets.as_slice() {
            [first, rest @ ..] if rest.iter().all(|offset| offset == first) => Offset::Same(*first),
            _ => Offset::Rows(Array::from_slice(&offsets, &[offsets.len() as i32])),
        }
    }

    /// Tokens read, where they are counted; zero elsewhere, and in rows.
    pub(crate) fn read(&self) -> i32 {
        match self {
            Self::Kv(cache) => cache.offset,
            Self::Rotating(cache) => cache.offset,
            Self::Chunked(cache) => cache.offset,
            Self::Compressed(cache) => cache.offset,
            Self::List(caches) => caches.iter().find(|cache| cache.keeps_kv()).map_or(0, Self::read),
            Self::State(_) | Self::Rows(_) => 0,
        }
    }

    /// The tokens held once `added` more are read; none where no keys and values are kept.
    pub(crate) fn held_after(&self, added: usize) -> Option<usize> {
        match self {
            Self::State(_) => None,
            Self::List(caches) | Self::Rows(caches) => caches.iter().filter_map(|cache| cache.held_after(added)).max(),
            _ => Some(usize::try_from(self.read()).unwrap_or(0).saturating_add(added).min(self.most())),
        }
    }

    /// The most tokens that are kept.
    fn most(&self) -> usize {
        match self {
            Self::Rotating(cache) => usize::try_from(cache.max_size).unwrap_or(0),
            _ => usize::MAX,
        }
    }

    /// See [`crate::Caches::nbytes_of`].
    pub(crate) fn nbytes_of(&self, tokens: usize) -> u64 {
        match (self, self.buffer()) {
            (Self::List(caches) | Self::Rows(caches), _) => {
                caches.iter().map(|cache| cache.nbytes_of(tokens)).fold(0, u64::saturating_add)
            }
            (Self::Compressed(cache), _) => cache.nbytes_of(tokens),
            (_, None) => self.nbytes() as u64,
            (_, Some(buffer)) => {
                let each = buffer.nbytes().div_ceil(buffer.len().max(1) as usize);
                let room = tokens.min(self.most()).checked_next_multiple_of(STEP as usize).unwrap_or(usize::MAX);
                (each as u64).saturating_mul(room as u64)
            }
        }
    }

    /// Whether [`trim`](Self::trim) can take tokens back.
    pub fn is_trimmable(&self) -> bool {
        match self {
            Self::Kv(_) | Self::Chunked(_) => true,
            Self::Rotating(cache) => cache.is_trimmable(),
            Self::State(_) | Self::Compressed(_) => false,
            Self::List(caches) | Self::Rows(caches) => caches.iter().all(Self::is_trimmable),
        }
    }

    /// Takes back the last `n` tokens, or as many as there are, and says how many; none if it is not trimmable.
    pub fn trim(&mut self, n: i32) -> i32 {
        if !self.is_trimmable() {
            return 0;
        }
        match self {
            Self::Kv(cache) => cache.trim(n),
            Self::Rotating(cache) => cache.trim(n),
            Self::Chunked(cache) => cache.trim(n),
            Self::State(_) | Self::Compressed(_) => 0,
            Self::List(caches) | Self::Rows(caches) => caches.iter_mut().map(|cache| cache.trim(n)).last().unwrap_or(0),
        }
    }

    /// The latest rows and the groups of a layer that compresses.
    pub fn compressed_mut(&mut self) -> Result<&mut CompressedCache> {
        match self {
            Self::Compressed(cache) => Ok(cache),
            _ => Err(Error::Kind { action: "keep compressed groups", kind: self.name() }),
        }
    }

    /// The caches of a layer that has several.
    pub fn list_mut(&mut self) -> Result<&mut [LayerCache]> {
        match self {
            Self::List(caches) => Ok(caches),
            _ => Err(Error::Kind { action: "stand for several", kind: self.name() }),
        }
    }

    /// The arrays held, to be evaluated after a chunk of the prompt.
    pub fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::State(state) => state.arrays().collect(),
            Self::Compressed(cache) => cache.parts().into_iter().flatten().collect(),
            Self::List(caches) | Self::Rows(caches) => caches.iter().flat_map(Self::arrays).collect(),
            _ => self.buffer().into_iter().flat_map(Buffer::arrays).collect(),
        }
    }

    /// The memory of the arrays held, the room for tokens to come included, in bytes.
    pub fn nbytes(&self) -> usize {
        match self {
            Self::State(state) => state.nbytes(),
            Self::Compressed(_) => self.arrays().into_iter().map(Array::nbytes).sum(),
            Self::List(caches) | Self::Rows(caches) => caches.iter().map(Self::nbytes).sum(),
            _ => self.buffer().map_or(0, Buffer::nbytes),
        }
    }

    /// How keys and values are quantized, if they are.
    pub fn format(&self) -> Option<KvFormat> {
        match self {
            Self::Kv(cache) => cache.format,
            Self::Rotating(cache) => cache.format,
            Self::Chunked(cache) => cache.format,
            Self::State(_) | Self::Compressed(_) => None,
            Self::List(caches) | Self::Rows(caches) => caches.iter().find_map(Self::format),
        }
    }

    /// Whether there are keys and values in it or to come.
    pub fn keeps_kv(&self) -> bool {
        match self {
            Self::State(_) => false,
            Self::List(caches) | Self::Rows(caches) => caches.iter().any(Self::keeps_kv),
            _ => true,
        }
    }

    /// Quantizes what is held and what will be added, if at least `start` tokens were read.
    pub(crate) fn quantize(&mut self, format: KvFormat, start: i32) -> Result<()> {
        if let Self::List(caches) | Self::Rows(caches) = self {
            return caches.iter_mut().try_for_each(|cache| cache.quantize(format, start));
        }
        if let Self::Compressed(_) = self {
            return Err(Error::Kind { action: "be quantized", kind: self.name() });
        }
        let Some((buffer, held, tokens)) = self.format_mut() else { return Ok(()) };
        match *held {
            _ if tokens < start => Ok(()),
            Some(same) if same == format => Ok(()),
            Some(held) => Err(Error::Requantize { held, asked: format }),
            None => {
                if let Some(buffer) = buffer {
                    *buffer = buffer.with_format(Some(format))?;
                }
                *held = Some(format);
                Ok(())
            }
        }
    }

    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        match self {
            Self::Kv(cache) => cache.buffer.as_ref(),
            Self::Rotating(cache) => cache.buffer.as_ref(),
            Self::Chunked(cache) => cache.buffer.as_ref(),
            Self::State(_) | Self::Compressed(_) | Self::List(_) | Self::Rows(_) => None,
        }
    }

    pub(crate) fn buffer_mut(&mut self) -> Option<&mut Buffer> {
        self.format_mut().and_then(|(buffer, ..)| buffer)
    }

    /// Buffer, format and tokens read.
    fn format_mut(&mut self) -> Option<(Option<&mut Buffer>, &mut Option<KvFormat>, i32)> {
        Some(match self {
            Self::Kv(cache) => (cache.buffer.as_mut(), &mut cache.format, cache.offset),
            Self::Rotating(cache) => (cache.buffer.as_mut(), &mut cache.format, cache.offset),
            Self::Chunked(cache) => (cache.buffer.as_mut(), &mut cache.format, cache.offset),
            Self::State(_) | Self::Compressed(_) | Self::List(_) | Self::Rows(_) => return None,
        })
    }

    fn no_kv(&self) -> Error {
        Error::Kind { action: "attend", kind: self.name() }
    }

    pub(crate) fn no_state(&self) -> Error {
        Error::Kind { action: "keep a recurrent state", kind: self.name() }
    }
}
