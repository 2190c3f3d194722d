//! Batches made of single sequences, and taken apart again, for the cache of one layer.

use crate::batch::BatchKvCache;
use crate::batch_rotating::BatchRotatingKvCache;
use crate::layer::LayerCache;
use crate::state::StateCache;
use crate::{Error, Result};

impl LayerCache {
    /// Rows of a batch: `None` for a single sequence's cache that does not say.
    pub(crate) fn rows(&self) -> Option<usize> {
        match self {
            Self::BatchKv(cache) => Some(cache.left_padding.len()),
            Self::BatchRotating(cache) => Some(cache.left_padding.len()),
            Self::State(state) => Some(state.batch() as usize),
            Self::List(caches) => caches.iter().find_map(Self::rows),
            Self::Kv(_) | Self::Rotating(_) | Self::Chunked(_) => None,
        }
    }

    /// One batch of single sequences.
    pub(crate) fn merge(rows: &[&Self]) -> Result<Self> {
        let Some(first) = rows.first() else { return Err(Error::NoRows) };
        let unlike = |other: &Self| Error::Unlike { what: format!("{} against {}", first.name(), other.name()) };
        macro_rules! all {
            ($kind:path) => {
                rows.iter()
                    .map(|row| if let $kind(cache) = row { Ok(cache) } else { Err(unlike(row)) })
                    .collect::<Result<Vec<_>>>()?
            };
        }
        Ok(match first {
            Self::Kv(_) => Self::BatchKv(BatchKvCache::merge(&all!(Self::Kv))?),
            Self::Rotating(_) => Self::BatchRotating(BatchRotatingKvCache::merge(&all!(Self::Rotating))?),
            Self::State(_) => Self::State(StateCache::merge(&all!(Self::State))?),
            Self::List(caches) => {
                let lists = all!(Self::List);
                if let Some(other) = lists.iter().find(|list| list.len() != caches.len()) {
                    return Err(Error::Unlike { what: format!("lists of {} and {}", caches.len(), other.len()) });
                }
                let merge = |i: usize| Self::merge(&lists.iter().map(|list| &list[i]).collect::<Vec<_>>());
                Self::List((0..caches.len()).map(merge).collect::<Result<_>>()?)
            }
            Self::Chunked(_) | Self::BatchKv(_) | Self::BatchRotating(_) => {
                return Err(Error::Kind { action: "become a row of a batch", kind: first.name() });
            }
        })
    }

    /// Keeps the given rows of a batch, in the given order.
    pub(crate) fn filter(&mut self, rows: &[i32]) -> Result<()> {
        self.check_rows(rows)?;
        match self {
            Self::BatchKv(cache) => cache.filter(rows),
            Self::BatchRotating(cache) => cache.filter(rows),
            Self::State(state) => state.filter(rows),
            Self::List(caches) => caches.iter_mut().try_for_each(|cache| cache.filter(rows)),
            Self::Kv(_) | Self::Rotating(_) | Self::Chunked(_) => Err(self.no_batch()),
        }
    }

    /// Adds the rows of another batch.
    pub(crate) fn extend(&mut self, other: &Self) -> Result<()> {
        match (&mut *self, other) {
            (Self::BatchKv(cache), Self::BatchKv(other)) => cache.extend(other),
            (Self::BatchRotating(cache), Self::BatchRotating(other)) => cache.extend(other),
            (Self::State(state), Self::State(other)) => {
                *state = StateCache::merge(&[state, other])?;
                Ok(())
            }
            (Self::List(caches), Self::List(others)) if caches.len() == others.len() => {
                caches.iter_mut().zip(others).try_for_each(|(cache, other)| cache.extend(other))
            }
            (Self::Kv(_) | Self::Rotating(_) | Self::Chunked(_), _) => Err(self.no_batch()),
            (_, other) => Err(Error::Unlike { what: format!("{} against {}", self.name(), other.name()) }),
        }
    }

    /// One row of a batch, as a single sequence.
    pub(crate) fn extract(&self, row: i32) -> Result<Self> {
        self.check_rows(&[row])?;
        Ok(match self {
            Self::BatchKv(cache) => Self::Kv(cache.extract(row)?),
            Self::BatchRotating(cache) => Self::Rotating(cache.extract(row)?),
            Self::State(state) => Self::State(state.extract(row)?),
            Self::List(caches) => Self::List(caches.iter().map(|cache| cache.extract(row)).collect::<Result<_>>()?),
            Self::Kv(_) | Self::Rotating(_) | Self::Chunked(_) => return Err(self.no_batch()),
        })
    }

    fn check_rows(&self, rows: &[i32]) -> Result<()> {
        if rows.is_empty() {
            return Err(Error::NoRows);
        }
        let Some(batch) = self.rows() else { return Ok(()) };
        match rows.iter().find(|&&row| usize::try_from(row).map_or(true, |row| row >= batch)) {
            Some(&row) => Err(Error::Row { row, batch }),
            None => Ok(()),
        }
    }

    fn no_batch(&self) -> Error {
        Error::Kind { action: "be taken apart by rows", kind: self.name() }
    }
}
