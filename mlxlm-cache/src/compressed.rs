//! The cache of layers that keep the latest rows as they are and all older ones compressed in groups (DeepSeek-V4.1).
//!
//! Ports `LayerCache` of `mlx_lm/models/deepseek_v41.py` @ 0.32.2. Dropped rows and closed groups cannot be restored, so it
//! cannot be trimmed: going back takes a snapshot. Unusual: how long the window is says the layer, as the files do not.

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, ops};

use crate::{Error, Result};

/// What one such layer keeps; every array is `[B, rows, width]`.
#[derive(Debug, Clone, Default)]
pub struct CompressedCache {
    /// The latest rows.
    pub(crate) window: Option<Array>,
    /// A row for each closed group.
    pub compressed: Option<Array>,
    /// A key for each closed group, by which it is found.
    pub index: Option<Array>,
    /// The rows of the group that is still open.
    pub pending_rows: Option<Array>,
    /// The weights of those rows, before the softmax.
    pub pending_gates: Option<Array>,
    /// Tokens read.
    pub(crate) offset: i32,
}

impl CompressedCache {
    /// Adds the rows of the next tokens and keeps the latest `size`: what was kept before, with the new rows behind it.
    ///
    /// # Shapes
    /// - `rows`: `[B, L, d]`, result: `[B, kept + L, d]`
    pub fn slide(&mut self, rows: &Array, size: i32) -> Result<Array> {
        if size < 1 {
            return Err(Error::Window { window: size });
        }
        let &[_, added, _] = rows.shape() else {
            return Err(Error::Shape { what: "rows", expected: "[B, L, d]".into(), got: rows.shape().to_vec() });
        };
        let held = self.offset;
        self.offset = held.checked_add(added).ok_or(Error::TooLong { held, added })?;
        let all = appended(self.window.as_ref(), rows)?;
        let first = (all.dim(1) - size).max(0);
        self.window = Some(all.try_index((.., first.., ..))?);
        Ok(all)
    }

    /// Tokens read.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// The arrays in the order of files.
    pub(crate) fn parts(&self) -> [Option<&Array>; 5] {
        [&self.window, &self.compressed, &self.index, &self.pending_rows, &self.pending_gates].map(Option::as_ref)
    }

    /// The memory that so many tokens would take, in bytes: the window and what groups grow to.
    pub(crate) fn nbytes_of(&self, tokens: usize) -> u64 {
        let bytes = |array: &Option<Array>| array.as_ref().map_or(0, Array::nbytes) as u64;
        let grown = bytes(&self.compressed) + bytes(&self.index);
        let read = u64::try_from(self.offset).unwrap_or(0).max(1);
        bytes(&self.window).saturating_add(grown.saturating_mul(tokens as u64) / read)
    }
}

/// `new` behind what is held.
///
/// # Shapes
/// - `held`: `[B, rows, d]`, `new`: `[B, L, d]`, result: `[B, rows + L, d]`
pub fn appended(held: Option<&Array>, new: &Array) -> Result<Array> {
    match held {
        None => Ok(new.clone()),
        Some(held) => Ok(ops::concatenate(&[held, new], 1)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_slides_and_shows_what_it_held_with_what_is_new() {
        let rows = |range: std::ops::Range<i32>| {
            let values: Vec<f32> = range.map(|i| i as f32).collect();
            Array::from_slice(&values, &[1, values.len() as i32, 1])
        };
        let mut cache = CompressedCache::default();
        for (new, seen) in [(0..2, 0..2), (2..3, 0..3), (3..8, 0..8), (8..9, 5..9)] {
            let shown = cache.slide(&rows(new), 3).unwrap();
            assert_eq!(shown.to_vec_cast::<i32>().unwrap(), seen.collect::<Vec<_>>());
        }
        assert_eq!(cache.offset(), 9);
        assert!(cache.slide(&rows(0..1), 0).is_err());
    }
}
