//! How far back a cache can go by forgetting its last tokens, and how that is done.

use mlxlm_core::Array;

use crate::buffer::{Buffer, STEP};
use crate::{Caches, Error, LayerCache, Offset, Result};

/// The fewest tokens that the caches of `seen` tokens can be taken back to; every number from there to `seen` is possible.
pub(super) fn lowest(caches: &Caches, seen: usize) -> usize {
    caches.layers().iter().map(|layer| lowest_of(layer, seen)).max().unwrap_or(seen)
}

fn lowest_of(layer: &LayerCache, seen: usize) -> usize {
    match layer {
        LayerCache::Kv(cache) => seen.saturating_sub(usize::try_from(cache.tail).unwrap_or(0)),
        LayerCache::Rotating(cache) if cache.is_trimmable() => 0,
        // A token sees its chunk from its beginning: what lay before the first position is gone.
        LayerCache::Chunked(cache) => {
            let (start, size) = (cache.start.max(0) as usize, cache.chunk_size.max(1) as usize);
            start.next_multiple_of(size).min(seen)
        }
        LayerCache::List(caches) => caches.iter().map(|cache| lowest_of(cache, seen)).max().unwrap_or(seen),
        _ => seen,
    }
}

/// Whether a layer can be taken back to any number of tokens at any time, so that nothing has to be kept of it.
pub(super) fn is_always_trimmable(layer: &LayerCache) -> bool {
    match layer {
        LayerCache::Kv(cache) => cache.evicted == 0,
        LayerCache::List(caches) => caches.iter().all(is_always_trimmable),
        _ => false,
    }
}

/// A layer that has read `seen` tokens as it was after `tokens` of them; nothing if it cannot go back so far.
///
/// Where its buffer is `shared` with others, the next token copies it: what is not needed of it is left behind then.
pub(super) fn back_to(layer: &LayerCache, seen: usize, tokens: usize, shared: bool) -> Option<LayerCache> {
    if tokens > seen || tokens < lowest_of(layer, seen) {
        return None;
    }
    let mut layer = layer.clone();
    let n = i32::try_from(seen - tokens).ok()?;
    if n > 0 && layer.trim(n) != n {
        return None;
    }
    if let LayerCache::Kv(cache) = &mut layer
        && shared
        && let Some(buffer) = &cache.buffer
    {
        cache.buffer = Some(shortened(buffer, cache.count()).ok()?);
    }
    Some(layer)
}

/// The first `used` tokens of a buffer with the room of their last step.
fn shortened(buffer: &Buffer, used: i32) -> Result<Buffer> {
    let room = (used / STEP).saturating_add(1).saturating_mul(STEP);
    if buffer.len() > room { buffer.view(0, room) } else { Ok(buffer.clone()) }
}

/// Checks that the layers have read so many tokens, as far as they know.
pub(super) fn check_read(caches: &Caches, tokens: usize) -> Result<()> {
    let wrong = caches.layers().iter().find_map(|layer| read(layer).filter(|&read| read as usize != tokens));
    wrong.map_or(Ok(()), |read| Err(Error::Read { read, tokens }))
}

/// The tokens that a layer has read, if it knows; -1 if its rows are a batch.
fn read(layer: &LayerCache) -> Option<i32> {
    match layer {
        LayerCache::State(_) => None,
        LayerCache::List(caches) => caches.iter().find_map(read),
        _ => Some(if let Offset::Same(read) = layer.offset() { read } else { -1 }),
    }
}

/// An array in memory of its own, of its own size: one that is a part of another keeps all of that.
pub(super) fn own(array: &Array) -> Result<Array> {
    if array.size() == 0 {
        return Ok(array.clone());
    }
    array.eval()?;
    let array = array.contiguous()?;
    array.eval()?;
    Ok(array.deep_clone())
}

/// The layer with arrays that keep nothing but themselves in memory, computed.
pub(super) fn compact(layer: &LayerCache) -> Result<LayerCache> {
    let mut layer = layer.clone();
    match &mut layer {
        LayerCache::State(state) => {
            for slot in 0..state.slots() {
                if let Some(array) = state.get(slot)? {
                    state.set(slot, own(&array)?, None)?;
                }
            }
        }
        LayerCache::Compressed(cache) => {
            let parts = [
                &mut cache.window,
                &mut cache.compressed,
                &mut cache.index,
                &mut cache.pending_rows,
                &mut cache.pending_gates,
            ];
            for array in parts.into_iter().flatten() {
                *array = own(array)?;
            }
        }
        LayerCache::List(caches) => {
            for cache in caches {
                *cache = compact(cache)?;
            }
        }
        _ => mlxlm_core::transforms::eval(layer.arrays())?,
    }
    Ok(layer)
}
