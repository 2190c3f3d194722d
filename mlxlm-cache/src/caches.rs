//! The caches of all layers.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::Array;
use mlxlm_core::quant::{Mode, Scheme};

use crate::{CacheKind, Error, LayerCache, Offset, Result, file};

/// What a model remembers of a sequence, or of a batch of sequences.
#[derive(Debug, Clone)]
pub struct Caches {
    layers: Vec<LayerCache>,
}

/// Caches as they were at some time, to go back to.
#[derive(Debug, Clone)]
pub struct Snapshot(Caches);

impl Caches {
    /// Empty caches for a model's layers.
    pub fn new(kinds: &[CacheKind]) -> Self {
        Self { layers: kinds.iter().map(LayerCache::new).collect() }
    }

    /// Empty caches that keep at most `max_size` tokens of keys and values: the first four and the latest others.
    ///
    /// Unlike the reference this also limits the layers of architectures that declare their caches themselves.
    pub fn with_max_size(kinds: &[CacheKind], max_size: i32) -> Result<Self> {
        let limited: Vec<CacheKind> = kinds.iter().map(|kind| kind.limited(max_size)).collect();
        for kind in &limited {
            if let CacheKind::Rotating { max_size, keep } = *kind
                && max_size <= keep
            {
                return Err(Error::Room { max_size, keep });
            }
        }
        Ok(Self::new(&limited))
    }

    /// Empty caches for a batch: row `b` of the first tokens begins with `padding[b]` places that are none.
    pub fn left_padded(kinds: &[CacheKind], padding: &[i32]) -> Result<Self> {
        if padding.is_empty() {
            return Err(Error::NoRows);
        }
        Ok(Self { layers: kinds.iter().map(|kind| LayerCache::left_padded(kind, padding)).collect::<Result<_>>()? })
    }

    /// The layers that have a cache.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether no layer has a cache.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The layers' caches.
    pub fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// The layers' caches, to attend with.
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// One layer's cache.
    pub fn layer_mut(&mut self, layer: usize) -> Result<&mut LayerCache> {
        let layers = self.layers.len();
        self.layers.get_mut(layer).ok_or(Error::Layer { layer, layers })
    }

    /// The position of the next token, from the first layer that keeps keys and values; zero if none does.
    pub fn offset(&self) -> Offset {
        self.layers.iter().find(|layer| layer.keeps_kv()).map_or(Offset::Same(0), LayerCache::offset)
    }

    /// Whether [`trim`](Self::trim) can take tokens back from every layer.
    pub fn is_trimmable(&self) -> bool {
        self.layers.iter().all(LayerCache::is_trimmable)
    }

    /// Takes back the last `n` tokens, or as many as there are, and says how many: none if a layer is not trimmable.
    pub fn trim(&mut self, n: i32) -> i32 {
        if !self.is_trimmable() {
            return 0;
        }
        let trimmed: Vec<i32> = self.layers.iter_mut().map(|layer| layer.trim(n)).collect();
        trimmed.first().copied().unwrap_or(0)
    }

    /// The caches as they are now. This holds on to arrays and copies none; the next token that is added then copies
    /// the buffers it goes into.
    pub fn snap(&self) -> Snapshot {
        Snapshot(self.clone())
    }

    /// Goes back to a snapshot of these caches.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.clone_from(&snapshot.0);
    }

    /// Quantizes the keys and values of each layer that has read at least `start` tokens, and those that it will read.
    ///
    /// To be called after each step, as layers reach `start`; those that are quantized already stay as they are. All
    /// kinds that keep keys and values can be quantized; recurrent states have none and stay as they are. A model
    /// without any keys and values is an error, as are widths that the group does not divide.
    pub fn quantize(&mut self, group_size: i32, bits: i32, start: i32) -> Result<()> {
        let scheme = Scheme::new(Mode::Affine, bits, group_size)?;
        if !self.layers.iter().any(LayerCache::keeps_kv) {
            let mut kinds: Vec<&str> = self.layers.iter().map(LayerCache::name).collect();
            kinds.dedup();
            return Err(Error::NothingToQuantize { kinds: kinds.join(", ") });
        }
        self.layers.iter_mut().try_for_each(|layer| layer.quantize(scheme, start))
    }

    /// How keys and values are quantized, from the first layer where they are.
    pub fn scheme(&self) -> Option<Scheme> {
        self.layers.iter().find_map(LayerCache::scheme)
    }

    /// The arrays held, to be evaluated after a chunk of the prompt.
    pub fn arrays(&self) -> Vec<&Array> {
        self.layers.iter().flat_map(LayerCache::arrays).collect()
    }

    /// The memory of the arrays held, the room for tokens to come included, in bytes.
    pub fn nbytes(&self) -> usize {
        self.layers.iter().map(LayerCache::nbytes).sum()
    }

    /// One batch of single sequences; shorter ones are padded on the left.
    pub fn merge(rows: &[Self]) -> Result<Self> {
        let Some(first) = rows.first() else { return Err(Error::NoRows) };
        if let Some(other) = rows.iter().find(|row| row.len() != first.len()) {
            return Err(Error::Unlike { what: format!("{} layers against {}", first.len(), other.len()) });
        }
        let merge = |i: usize| LayerCache::merge(&rows.iter().map(|row| &row.layers[i]).collect::<Vec<_>>());
        Ok(Self { layers: (0..first.len()).map(merge).collect::<Result<_>>()? })
    }

    /// Keeps the given rows of a batch, in the given order.
    pub fn filter(&mut self, rows: &[i32]) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| layer.filter(rows))
    }

    /// Adds the rows of another batch behind those of this one.
    pub fn extend(&mut self, other: &Self) -> Result<()> {
        if self.len() != other.len() {
            return Err(Error::Unlike { what: format!("{} layers against {}", self.len(), other.len()) });
        }
        self.layers.iter_mut().zip(&other.layers).try_for_each(|(layer, other)| layer.extend(other))
    }

    /// One row of a batch, as a single sequence.
    pub fn extract(&self, row: i32) -> Result<Self> {
        Ok(Self { layers: self.layers.iter().map(|layer| layer.extract(row)).collect::<Result<_>>()? })
    }

    /// Checks that these caches, from a file, are such as a model with these kinds can go on with.
    ///
    /// A layer that keeps keys and values can go on with any cache of keys and values.
    pub fn check_fits(&self, kinds: &[CacheKind]) -> Result<()> {
        if self.len() != kinds.len() {
            let what =
                format!("there are {} of them, and the model has {} layers with a cache", self.len(), kinds.len());
            return Err(Error::Misfit { what });
        }
        let misfit = self.layers.iter().zip(kinds).position(|(layer, kind)| !fits(layer, kind));
        match misfit {
            None => Ok(()),
            Some(i) => {
                let (is, needs) = (self.layers[i].name(), kinds[i].name());
                Err(Error::Misfit { what: format!("layer {i} has a {is} cache, and the model needs a {needs} one") })
            }
        }
    }

    /// Writes the caches as Python mlx-lm 0.32.2 does, with metadata for whoever loads them.
    ///
    /// Only the tokens held are written, not the room behind them. Python has quantized caches of the KV kind only:
    /// other kinds are written with plain numbers.
    pub fn save(&self, path: impl AsRef<Path>, metadata: &BTreeMap<String, String>) -> Result<()> {
        file::save(path.as_ref(), &self.layers, metadata)
    }

    /// Reads caches and metadata from a file that [`save`](Self::save), or Python mlx-lm of any version, wrote.
    pub fn load(path: impl AsRef<Path>) -> Result<(Self, BTreeMap<String, String>)> {
        let (layers, metadata) = file::load(path.as_ref())?;
        Ok((Self { layers }, metadata))
    }
}

fn fits(layer: &LayerCache, kind: &CacheKind) -> bool {
    match (layer, kind) {
        (LayerCache::State(state), CacheKind::State { slots }) => state.slots() == *slots,
        (LayerCache::List(layers), CacheKind::List(kinds)) => {
            layers.len() == kinds.len() && layers.iter().zip(kinds).all(|(layer, kind)| fits(layer, kind))
        }
        (LayerCache::State(_) | LayerCache::List(_), _) | (_, CacheKind::State { .. } | CacheKind::List(_)) => false,
        _ => true,
    }
}
