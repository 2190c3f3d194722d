//! The caches of all layers.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::Array;

use crate::{CacheKind, Error, KvFormat, LayerCache, Offset, Result, file};

/// What a model remembers of a sequence, or of several as the rows of one pass.
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

    /// The caches of these layers.
    pub(crate) fn from_layers(layers: Vec<LayerCache>) -> Self {
        Self { layers }
    }

    /// Empty caches that keep at most `max_size` tokens of keys and values: the first four and the latest others.
    ///
    /// Unlike the reference this also limits the layers of architectures that declare their caches themselves.
    pub fn with_max_size(kinds: &[CacheKind], max_size: i32) -> Result<Self> {
        let limited: Vec<CacheKind> = kinds.iter().map(|kind| kind.limited(max_size)).collect();
        limited.iter().try_for_each(CacheKind::check_room)?;
        Ok(Self::new(&limited))
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

    /// The tokens that are held once `added` more are read, in the layer that holds most. A ring holds no more than its size, however
    /// many it has seen.
    pub fn held_after(&self, added: usize) -> usize {
        self.layers.iter().filter_map(|layer| layer.held_after(added)).max().unwrap_or(added)
    }

    /// The memory that these caches would take for so many tokens of one sequence, in bytes: by what a token takes that they hold now,
    /// in the format that it is held in. Layers that hold none yet count as nothing.
    pub fn nbytes_of(&self, tokens: usize) -> u64 {
        self.layers.iter().map(|layer| layer.nbytes_of(tokens)).fold(0, u64::saturating_add)
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
    pub fn quantize(&mut self, format: KvFormat, start: i32) -> Result<()> {
        if !self.layers.iter().any(LayerCache::keeps_kv) {
            let mut kinds: Vec<&str> = self.layers.iter().map(LayerCache::name).collect();
            kinds.dedup();
            return Err(Error::NothingToQuantize { kinds: kinds.join(", ") });
        }
        self.layers.iter_mut().try_for_each(|layer| layer.quantize(format, start))
    }

    /// How keys and values are quantized, from the first layer where they are.
    pub fn format(&self) -> Option<KvFormat> {
        self.layers.iter().find_map(LayerCache::format)
    }

    /// Has the matrices that gated delta nets remember kept in bf16, or in f32 as they are otherwise, from the next tokens on: half the
    /// memory to read and write, for a state that is rounded after each token.
    pub fn narrow_states(&mut self, narrow: bool) {
        self.layers.iter_mut().for_each(|layer| layer.narrow_states(narrow));
    }

    /// Whether a layer keeps a matrix in bf16 because of [`narrow_states`](Self::narrow_states), as is known once a token is read.
    pub fn have_narrow_states(&self) -> bool {
        self.layers.iter().any(LayerCache::has_narrow_states)
    }

    /// The arrays held, to be evaluated after a chunk of the prompt.
    pub fn arrays(&self) -> Vec<&Array> {
        self.layers.iter().flat_map(LayerCache::arrays).collect()
    }

    /// The memory of the arrays held, the room for tokens to come included, in bytes.
    pub fn nbytes(&self) -> usize {
        self.layers.iter().map(LayerCache::nbytes).sum()
    }

    /// The caches of several sequences as the rows of one pass: a move, without a copy. Rows may differ in length, window and
    /// format; layers that keep compressed groups cannot become rows.
    pub fn join(rows: Vec<Self>) -> Result<Self> {
        Self::check_joins(&rows.iter().collect::<Vec<_>>())?;
        let layers = rows.first().map_or(0, Self::len);
        let mut columns: Vec<Vec<LayerCache>> = (0..layers).map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            columns.iter_mut().zip(row.layers).for_each(|(column, layer)| column.push(layer));
        }
        Ok(Self { layers: columns.into_iter().map(LayerCache::join).collect::<Result<_>>()? })
    }

    /// Refuses rows that no pass can read together.
    pub fn check_joins(rows: &[&Self]) -> Result<()> {
        let Some(first) = rows.first() else { return Err(Error::NoRows) };
        if let Some(other) = rows.iter().find(|row| row.len() != first.len()) {
            return Err(Error::Unlike { what: format!("{} layers against {}", first.len(), other.len()) });
        }
        (0..first.len())
            .try_for_each(|i| LayerCache::check_joins(&rows.iter().map(|row| &row.layers[i]).collect::<Vec<_>>()))
    }

    /// The rows that [`join`](Self::join) put together, in their order. Caches of one sequence are one row.
    pub fn split(self) -> Vec<Self> {
        let mut columns: Vec<_> = self.layers.into_iter().map(|layer| layer.split().into_iter()).collect();
        let rows = columns.iter().map(ExactSizeIterator::len).min().unwrap_or(0);
        (0..rows).map(|_| Self { layers: columns.iter_mut().filter_map(Iterator::next).collect() }).collect()
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
    /// Only the tokens held are written, not the room behind them. Python has quantized caches of the KV kind only, with the same bits
    /// for keys and values: others are written as classes of ours (`QuantizedRotatingKVCache`, `MixedQuantizedKVCache` and the like),
    /// which it refuses by name.
    pub fn save(&self, path: impl AsRef<Path>, metadata: &BTreeMap<String, String>) -> Result<()> {
        file::save(path.as_ref(), &self.layers, metadata)
    }

    /// Reads caches and metadata from a file that [`save`](Self::save), or Python mlx-lm of any version, wrote.
    ///
    /// Where the platform allows it, the arrays are the mapped file, of which nothing is read before it is needed, and what is added
    /// stays in memory. While the caches are used the file may be replaced by another one, as `save` does, but not changed in place.
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
        (LayerCache::Compressed(_), CacheKind::Compressed) => true,
        (LayerCache::State(_) | LayerCache::Compressed(_) | LayerCache::List(_) | LayerCache::Rows(_), _)
        | (_, CacheKind::State { .. } | CacheKind::Compressed | CacheKind::List(_)) => false,
        _ => true,
    }
}
