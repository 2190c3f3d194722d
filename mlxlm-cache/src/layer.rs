//! The cache of one layer, whichever kind it is.

use mlxlm_core::Array;
use mlxlm_core::quant::Scheme;

use crate::attend::{Reach, Seen};
use crate::batch::BatchKvCache;
use crate::batch_rotating::BatchRotatingKvCache;
use crate::buffer::Buffer;
use crate::chunked::ChunkedKvCache;
use crate::error::READ_PLAIN;
use crate::kv::KvCache;
use crate::quantized::Tensor;
use crate::rotating::RotatingKvCache;
use crate::state::StateCache;
use crate::{Attend, CacheKind, Error, Masks, Result};

/// The position of the next token, as rotary embeddings need it.
#[derive(Debug, Clone)]
pub enum Offset {
    /// All rows are there.
    Same(i32),
    /// Each row is elsewhere: `i32` `[B]`.
    Rows(Array),
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
    /// All keys and values of a padded batch.
    BatchKv(BatchKvCache),
    /// A window of those of a padded batch.
    BatchRotating(BatchRotatingKvCache),
    /// A recurrent state.
    State(StateCache),
    /// Several caches for one layer.
    List(Vec<LayerCache>),
}

impl LayerCache {
    /// An empty cache.
    pub fn new(kind: &CacheKind) -> Self {
        match kind {
            CacheKind::Kv => Self::Kv(KvCache::default()),
            CacheKind::Rotating { max_size, keep } => Self::Rotating(RotatingKvCache::new(*max_size, *keep)),
            CacheKind::Chunked { chunk_size } => Self::Chunked(ChunkedKvCache::new(*chunk_size)),
            CacheKind::State { slots } => Self::State(StateCache::new(*slots)),
            CacheKind::List(kinds) => Self::List(kinds.iter().map(Self::new).collect()),
        }
    }

    /// An empty cache for a batch whose rows are padded by these numbers, on the left.
    pub(crate) fn left_padded(kind: &CacheKind, padding: &[i32]) -> Result<Self> {
        Ok(match kind {
            CacheKind::Kv => Self::BatchKv(BatchKvCache::new(padding)),
            CacheKind::Rotating { max_size, .. } => Self::BatchRotating(BatchRotatingKvCache::new(*max_size, padding)),
            CacheKind::State { slots } => {
                Self::State(StateCache { left_padding: Some(padding.to_vec()), ..StateCache::new(*slots) })
            }
            CacheKind::List(kinds) => {
                Self::List(kinds.iter().map(|kind| Self::left_padded(kind, padding)).collect::<Result<_>>()?)
            }
            CacheKind::Chunked { .. } => return Err(Error::Kind { action: "pad a batch", kind: kind.name() }),
        })
    }

    /// The kind's name in messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kv(_) => "KV",
            Self::Rotating(_) => "rotating",
            Self::Chunked(_) => "chunked",
            Self::BatchKv(_) => "batched KV",
            Self::BatchRotating(_) => "batched rotating",
            Self::State(_) => "recurrent-state",
            Self::List(_) => "list",
        }
    }

    /// Adds the keys and values of the next tokens and lets their queries attend to what the cache then holds.
    ///
    /// # Shapes
    /// - `q`: `[B, H, L, d]`, `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`, result: `[B, H, L, e]`
    pub fn attend(&mut self, q: &Array, k: &Array, v: &Array, how: &Attend, masks: &Masks) -> Result<Array> {
        self.update(k, v, how)?.attend(q, how, masks)
    }

    /// Adds keys and values and hands out what queries see, for architectures that compute attention themselves.
    ///
    /// Quantized caches refuse this.
    pub fn append(&mut self, k: &Array, v: &Array, how: &Attend, masks: &Masks) -> Result<Seen> {
        let kind = self.name();
        if self.scheme().is_some() {
            return Err(Error::Kind { action: READ_PLAIN, kind: "quantized" });
        }
        let Reach { kv, spec } = self.update(k, v, how)?.cut()?;
        let mask = masks.mask(&spec)?;
        match (kv.keys, kv.values) {
            (Tensor::Plain(keys), Tensor::Plain(values)) => Ok(Seen { keys, values, mask }),
            _ => Err(Error::Kind { action: READ_PLAIN, kind }),
        }
    }

    fn update(&mut self, k: &Array, v: &Array, how: &Attend) -> Result<Reach> {
        how.check()?;
        match self {
            Self::Kv(cache) => cache.update(k, v, how),
            Self::Rotating(cache) => cache.update(k, v, how),
            Self::Chunked(cache) => cache.update(k, v, how),
            Self::BatchKv(cache) => cache.update(k, v, how),
            Self::BatchRotating(cache) => cache.update(k, v, how),
            Self::State(_) | Self::List(_) => Err(Error::Kind { action: "attend", kind: self.name() }),
        }
    }

    /// The position of the next token. A recurrent state does not know it and says zero.
    pub fn offset(&self) -> Offset {
        let rows = |offsets: &[i32]| match offsets {
            [first, rest @ ..] if rest.iter().all(|offset| offset == first) => Offset::Same(*first),
            _ => Offset::Rows(Array::from_slice(offsets, &[offsets.len() as i32])),
        };
        match self {
            Self::Kv(cache) => Offset::Same(cache.offset),
            Self::Rotating(cache) => Offset::Same(cache.offset),
            Self::Chunked(cache) => Offset::Same(cache.offset),
            Self::BatchKv(cache) => rows(&cache.offsets()),
            Self::BatchRotating(cache) => rows(&cache.offsets),
            Self::State(_) => Offset::Same(0),
            Self::List(caches) => caches.iter().find(|cache| cache.keeps_kv()).map_or(Offset::Same(0), Self::offset),
        }
    }

    /// Whether [`trim`](Self::trim) can take tokens back.
    pub fn is_trimmable(&self) -> bool {
        match self {
            Self::Kv(_) | Self::Chunked(_) | Self::BatchKv(_) => true,
            Self::Rotating(cache) => cache.is_trimmable(),
            Self::BatchRotating(cache) => cache.is_trimmable(),
            Self::State(_) => false,
            Self::List(caches) => caches.iter().all(Self::is_trimmable),
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
            Self::BatchKv(cache) => cache.trim(n),
            Self::BatchRotating(cache) => cache.trim(n),
            Self::State(_) => 0,
            Self::List(caches) => caches.iter_mut().map(|cache| cache.trim(n)).last().unwrap_or(0),
        }
    }

    /// The state of a recurrent layer.
    pub fn state_mut(&mut self) -> Result<&mut StateCache> {
        match self {
            Self::State(state) => Ok(state),
            _ => Err(Error::Kind { action: "keep a recurrent state", kind: self.name() }),
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
            Self::List(caches) => caches.iter().flat_map(Self::arrays).collect(),
            _ => self.buffer().into_iter().flat_map(Buffer::arrays).collect(),
        }
    }

    /// The memory of the arrays held, the room for tokens to come included, in bytes.
    pub fn nbytes(&self) -> usize {
        match self {
            Self::State(_) | Self::List(_) => self.arrays().into_iter().map(Array::nbytes).sum(),
            _ => self.buffer().map_or(0, Buffer::nbytes),
        }
    }

    /// How keys and values are quantized, if they are.
    pub fn scheme(&self) -> Option<Scheme> {
        match self {
            Self::Kv(cache) => cache.scheme,
            Self::Rotating(cache) => cache.scheme,
            Self::Chunked(cache) => cache.scheme,
            Self::BatchKv(cache) => cache.scheme,
            Self::BatchRotating(cache) => cache.scheme,
            Self::State(_) => None,
            Self::List(caches) => caches.iter().find_map(Self::scheme),
        }
    }

    /// Whether there are keys and values in it or to come.
    pub(crate) fn keeps_kv(&self) -> bool {
        match self {
            Self::State(_) => false,
            Self::List(caches) => caches.iter().any(Self::keeps_kv),
            _ => true,
        }
    }

    /// Quantizes what is held and what will be added, if at least `start` tokens were read.
    pub(crate) fn quantize(&mut self, scheme: Scheme, start: i32) -> Result<()> {
        if let Self::List(caches) = self {
            return caches.iter_mut().try_for_each(|cache| cache.quantize(scheme, start));
        }
        let Some((buffer, held, tokens)) = self.format_mut() else { return Ok(()) };
        match *held {
            _ if tokens < start => Ok(()),
            Some(same) if same == scheme => Ok(()),
            Some(held) => Err(Error::Requantize { held, asked: scheme }),
            None => {
                if let Some(buffer) = buffer {
                    *buffer = buffer.with_scheme(Some(scheme))?;
                }
                *held = Some(scheme);
                Ok(())
            }
        }
    }

    fn buffer(&self) -> Option<&Buffer> {
        match self {
            Self::Kv(cache) => cache.buffer.as_ref(),
            Self::Rotating(cache) => cache.buffer.as_ref(),
            Self::Chunked(cache) => cache.buffer.as_ref(),
            Self::BatchKv(cache) => cache.buffer.as_ref(),
            Self::BatchRotating(cache) => cache.buffer.as_ref(),
            Self::State(_) | Self::List(_) => None,
        }
    }

    /// Buffer, format and tokens read.
    fn format_mut(&mut self) -> Option<(Option<&mut Buffer>, &mut Option<Scheme>, i32)> {
        Some(match self {
            Self::Kv(cache) => (cache.buffer.as_mut(), &mut cache.scheme, cache.offset),
            Self::Rotating(cache) => (cache.buffer.as_mut(), &mut cache.scheme, cache.offset),
            Self::Chunked(cache) => (cache.buffer.as_mut(), &mut cache.scheme, cache.offset),
            Self::BatchKv(cache) => (cache.buffer.as_mut(), &mut cache.scheme, cache.idx),
            Self::BatchRotating(cache) => (cache.buffer.as_mut(), &mut cache.scheme, cache.seen),
            Self::State(_) | Self::List(_) => return None,
        })
    }
}
