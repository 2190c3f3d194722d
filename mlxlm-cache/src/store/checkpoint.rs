//! What has to be kept of a moment of a sequence, so that later caches of the same sequence can go back to it.
//!
//! Keys and values of all tokens can be had from later caches by forgetting the last ones. A recurrent state cannot, nor can a window
//! whose first tokens were dropped. A checkpoint keeps those only, so that one costs little even late in a long sequence.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rewind;
use crate::{CacheKind, Caches, LayerCache, Result};

/// The layers at some moment that cannot be had from later caches of the sequence.
///
/// A clone shares its arrays, and the store counts it once.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Tells it from others that were taken at the same place.
    id: u64,
    tokens: usize,
    pub(super) layers: Vec<Held>,
}

/// What is kept of a layer.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Nothing: later caches have it.
    Later,
    /// The layer.
    Layer(LayerCache),
    /// Of the caches of a layer that has several.
    List(Vec<Held>),
}

impl Checkpoint {
    /// Whether caches of these kinds need any: those that keep all keys and values need none.
    pub fn are_needed(kinds: &[CacheKind]) -> bool {
        kinds.iter().any(|kind| match kind {
            CacheKind::Kv => false,
            CacheKind::List(kinds) => Self::are_needed(kinds),
            _ => true,
        })
    }

    /// Keeps what is needed of caches that have read `tokens` tokens. What is kept is computed and copied here.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) if a layer has read another number of tokens.
    pub fn take(caches: &Caches, tokens: usize) -> Result<Self> {
        rewind::check_read(caches, tokens)?;
        let held = |layer: &LayerCache| Held::of(layer, &rewind::compact);
        Ok(Self::new(tokens, caches.layers().iter().map(held).collect::<Result<_>>()?))
    }

    /// As [`take`](Self::take), with the arrays of the caches, which are of their own size already.
    pub(super) fn shared(caches: &Caches, tokens: usize) -> Self {
        let held = |layer: &LayerCache| Held::of(layer, &|layer| Ok(layer.clone()));
        Self::new(tokens, caches.layers().iter().filter_map(|layer| held(layer).ok()).collect())
    }

    pub(super) fn new(tokens: usize, layers: Vec<Held>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), tokens, layers }
    }

    /// The tokens that had been read.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The memory of what it keeps, in bytes.
    pub fn nbytes(&self) -> usize {
        self.layers.iter().map(Held::nbytes).sum()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The caches at this moment, from those of the same sequence after `seen` tokens; nothing if they are not of this sequence.
    pub(super) fn caches(&self, later: &Caches, seen: usize, shared: bool) -> Option<Caches> {
        if self.layers.len() != later.len() {
            return None;
        }
        let pairs = self.layers.iter().zip(later.layers());
        let layers = pairs.map(|(held, later)| held.layer(later, seen, self.tokens, shared));
        layers.collect::<Option<Vec<_>>>().map(Caches::from_layers)
    }
}

impl Held {
    fn of(layer: &LayerCache, keep: &dyn Fn(&LayerCache) -> Result<LayerCache>) -> Result<Self> {
        Ok(match layer {
            LayerCache::List(caches) => {
                Self::List(caches.iter().map(|cache| Self::of(cache, keep)).collect::<Result<_>>()?)
            }
            _ if rewind::is_always_trimmable(layer) => Self::Later,
            _ => Self::Layer(keep(layer)?),
        })
    }

    fn nbytes(&self) -> usize {
        match self {
            Self::Later => 0,
            Self::Layer(layer) => layer.nbytes(),
            Self::List(parts) => parts.iter().map(Self::nbytes).sum(),
        }
    }

    pub(super) fn layer(&self, later: &LayerCache, seen: usize, tokens: usize, shared: bool) -> Option<LayerCache> {
        match (self, later) {
            (Self::Later, _) => rewind::back_to(later, seen, tokens, shared),
            (Self::Layer(layer), _) => Some(layer.clone()),
            (Self::List(parts), LayerCache::List(later)) if parts.len() == later.len() => {
                let pairs = parts.iter().zip(later);
                let caches = pairs.map(|(part, later)| part.layer(later, seen, tokens, shared));
                caches.collect::<Option<_>>().map(LayerCache::List)
            }
            (Self::List(_), _) => None,
        }
    }
}
