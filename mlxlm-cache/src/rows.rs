//! Several sequences as the rows of one pass: each owns its cache, which is lent for the pass and moved, never copied.

use mlxlm_core::Array;

use crate::attend::{Part, Reach};
use crate::buffer::Buffer;
use crate::layer::{LayerCache, Place};
use crate::state::{Replay, StateCache};
use crate::{Attend, Error, Result};

impl LayerCache {
    /// The caches of one layer of several sequences. Lists become a list of such rows.
    pub(crate) fn join(rows: Vec<Self>) -> Result<Self> {
        let lists: Vec<usize> = rows.iter().filter_map(|row| row.list().map(<[_]>::len)).collect();
        let Some(&len) = lists.first() else { return Ok(Self::Rows(rows)) };
        if lists.len() != rows.len() || lists.iter().any(|other| *other != len) {
            return Err(Error::Unlike { what: "lists of caches of different lengths".into() });
        }
        let mut parts: Vec<Vec<Self>> = (0..len).map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            if let Self::List(caches) = row {
                parts.iter_mut().zip(caches).for_each(|(part, cache)| part.push(cache));
            }
        }
        Ok(Self::List(parts.into_iter().map(Self::join).collect::<Result<_>>()?))
    }

    /// The rows, in their order; a cache that has none is a row by itself.
    pub(crate) fn split(self) -> Vec<Self> {
        match self {
            Self::Rows(rows) => rows,
            Self::List(caches) => {
                let mut parts: Vec<_> = caches.into_iter().map(|cache| Self::split(cache).into_iter()).collect();
                let rows = parts.first().map_or(1, ExactSizeIterator::len);
                let mut row = || Self::List(parts.iter_mut().filter_map(Iterator::next).collect());
                (0..rows).map(|_| row()).collect()
            }
            alone => vec![alone],
        }
    }

    /// Refuses rows that no pass can read together.
    pub(crate) fn check_joins(rows: &[&Self]) -> Result<()> {
        let Some((first, others)) = rows.split_first() else { return Err(Error::NoRows) };
        for row in rows {
            if matches!(row, Self::Compressed(_) | Self::Rows(_)) {
                return Err(Error::Kind { action: "become a row of a batch", kind: row.name() });
            }
        }
        for other in others {
            let alike = match (first, other) {
                (Self::State(a), Self::State(b)) => a.slots() == b.slots() && a.matrix_dtype() == b.matrix_dtype(),
                (Self::List(a), Self::List(b)) => a.len() == b.len(),
                (Self::State(_) | Self::List(_), _) | (_, Self::State(_) | Self::List(_)) => false,
                _ => true,
            };
            if !alike {
                return Err(Error::Unlike { what: format!("{} against {}", first.name(), other.name()) });
            }
        }
        let Self::List(caches) = first else { return Ok(()) };
        (0..caches.len()).try_for_each(|i| {
            let nth: Vec<&Self> = rows.iter().filter_map(|row| row.list()?.get(i)).collect();
            Self::check_joins(&nth)
        })
    }

    fn list(&self) -> Option<&[Self]> {
        if let Self::List(caches) = self { Some(caches) } else { None }
    }
}

/// Adds each row's keys and values to its own cache, and hands out what the queries of each see.
///
/// # Shapes
/// - `k`: `[B, K, L, d]`, `v`: `[B, K, L, e]`
pub(crate) fn remember(rows: &mut [LayerCache], k: &Array, v: &Array, how: &Attend) -> Result<Reach> {
    let count = rows.len();
    if k.ndim() != 4 || k.dim(0) as usize != count {
        return Err(Error::Shape { what: "keys", expected: format!("[{count}, K, L, d]"), got: k.shape().to_vec() });
    }
    let format = rows.first().and_then(LayerCache::format);
    let len = k.dim(2);
    if rows.iter().all(|row| row.format() == format && row.has_place(len)) {
        let new = Buffer::new(k, v, format)?;
        let places = rows.iter_mut().map(|row| row.place(&new, 1, how)).collect::<Result<Vec<_>>>()?;
        let buffers = rows.iter_mut().zip(&places).filter_map(|(row, place)| Some((row.buffer_mut()?, place.at)));
        Buffer::write_rows(buffers.collect(), &new)?;
        let parts = rows
            .iter()
            .zip(places)
            .filter_map(|(row, Place { seen, spec, .. })| Some(Part { kv: row.buffer()?.clone(), seen, spec }));
        return Ok(Reach::from(parts.collect::<Vec<_>>()));
    }
    let mut parts = Vec::with_capacity(count);
    for (row, i) in rows.iter_mut().zip(0..) {
        let new = Buffer::new(k, v, None)?.row(i)?.with_format(row.format())?;
        parts.push(row.lay(new, how)?);
    }
    Ok(Reach::from(parts))
}

/// An array of the states of all rows.
pub(crate) fn recall(rows: &[LayerCache], slot: usize) -> Result<Option<Array>> {
    let states = rows.iter().map(|row| match row {
        LayerCache::State(state) => Ok(state),
        other => Err(other.no_state()),
    });
    StateCache::of_rows(&states.collect::<Result<Vec<_>>>()?, slot)
}

/// Keeps each row of an array for its own state.
pub(crate) fn keep(rows: &mut [LayerCache], slot: usize, array: Array, replay: Option<&Replay>) -> Result<()> {
    let mut states = Vec::with_capacity(rows.len());
    for row in rows {
        match row {
            LayerCache::State(state) => states.push(state),
            other => return Err(other.no_state()),
        }
    }
    StateCache::keep_rows(states.into_iter(), slot, array, replay)
}
