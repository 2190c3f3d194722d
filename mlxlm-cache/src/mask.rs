//! Which keys a query sees: nothing to say, MLX's built-in causal rule, or a boolean array.
//!
//! An array is only made where a window, a chunk or padding hides something from somebody; it is made on the device,
//! once for all layers of a forward pass that need the same one.

use std::cell::RefCell;

use mlxlm_core::ops::indexing::{Ellipsis, TryIndexOp};
use mlxlm_core::{Array, ops};

use crate::Result;

/// The keys that queries see.
#[derive(Debug, Clone)]
pub enum Mask {
    /// Every query sees every key.
    None,
    /// The last query sees every key, the one before it all but the last, and so on.
    Causal,
    /// `true` where the query sees the key: `[L, S]`, or `[B, 1, L, S]` in a padded batch.
    Array(Array),
}

/// The masks of one forward pass, so that layers that need the same one share it. Make a new one for each pass.
#[derive(Debug, Default)]
pub struct Masks {
    made: RefCell<Vec<(Spec, Array)>>,
}

impl Masks {
    /// What `spec` comes to, in its cheapest form.
    pub(crate) fn mask(&self, spec: &Spec) -> Result<Mask> {
        if spec.hides() {
            Ok(Mask::Array(self.array(spec)?))
        } else if spec.len == 1 {
            Ok(Mask::None)
        } else {
            Ok(Mask::Causal)
        }
    }

    /// The causal rule as an array `[L, S]`, for attention that is computed by hand.
    pub(crate) fn causal(&self, len: i32, keys: i32) -> Result<Array> {
        self.array(&Spec { len, before: keys - len, ..Spec::default() })
    }

    fn array(&self, spec: &Spec) -> Result<Array> {
        if let Some((_, array)) = self.made.borrow().iter().find(|(made, _)| made == spec) {
            return Ok(array.clone());
        }
        let array = spec.build()?;
        self.made.borrow_mut().push((spec.clone(), array.clone()));
        Ok(array)
    }
}

/// The rule of a mask over `before + len` keys in the order of time, of which the last `len` are the queries' own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Queries.
    pub len: i32,
    /// Keys before the first query's own.
    pub before: i32,
    /// A query sees this many keys, its own the last of them.
    pub window: Option<i32>,
    /// A query sees the keys of its own chunk.
    pub chunk: Option<Chunk>,
    /// The keys at the front of each row that nobody sees; empty for none in any.
    pub padding: Vec<i32>,
    /// Keys do not lie in the order of time, but in that of a ring.
    pub ring: Option<Ring>,
}

/// Tokens are cut into chunks by their position in the sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Tokens in a chunk.
    pub size: i32,
    /// The position of the first key.
    pub first: i32,
}

/// Where the keys of a single query lie when the oldest are overwritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ring {
    /// The first keys, which are never overwritten.
    pub keep: i32,
    /// Where the newest key lies.
    pub newest: i32,
}

impl Spec {
    fn keys(&self) -> i32 {
        self.before + self.len
    }

    /// Whether any key is hidden from a query that comes after it.
    fn hides(&self) -> bool {
        self.window.is_some_and(|window| self.keys() > window)
            || self.chunk.as_ref().is_some_and(|c| c.first / c.size != (c.first + self.keys() - 1) / c.size)
            || self.padding.iter().any(|&padding| padding > 0)
    }

    fn build(&self) -> Result<Array> {
        let keys = ops::arange::<i32, i32>(0, self.keys(), None)?.expand_dims(0)?;
        let queries = ops::arange::<i32, i32>(self.before, self.keys(), None)?.expand_dims(1)?;
        let mut seen = queries.ge(&keys)?;
        if let Some(window) = self.window {
            let end = keys.add(Array::from_int(window))?;
            seen = seen.logical_and(queries.lt(end)?)?;
        }
        if let Some(Chunk { size, first }) = self.chunk {
            let chunk = |positions: &Array| positions.add(Array::from_int(first))?.floor_divide(Array::from_int(size));
            seen = seen.logical_and(chunk(&queries)?.eq(chunk(&keys)?)?)?;
        }
        if !self.padding.is_empty() {
            let padding = Array::from_slice(&self.padding, &[self.padding.len() as i32, 1, 1, 1]);
            seen = seen.logical_and(keys.ge(padding)?)?;
        }
        match &self.ring {
            Some(ring) => ring.place(&seen, self.keys()),
            None => Ok(seen),
        }
    }
}

impl Ring {
    /// Moves the columns of `seen` from the order of time to where the keys lie.
    fn place(&self, seen: &Array, keys: i32) -> Result<Array> {
        let Self { keep, newest } = *self;
        // Behind the kept keys lie the youngest, up to the newest of all, and behind those the oldest.
        let youngest = keys - (newest + 1 - keep);
        let part = |from: i32, to: i32| seen.try_index((Ellipsis, from..to));
        Ok(ops::concatenate(&[part(0, keep)?, part(youngest, keys)?, part(keep, youngest)?], -1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rules_share_one_array() {
        let masks = Masks::default();
        let spec = |window| Spec { len: 3, before: 4, window: Some(window), ..Spec::default() };
        for window in [5, 6, 5, 5] {
            assert!(matches!(masks.mask(&spec(window)).unwrap(), Mask::Array(_)));
        }
        assert!(matches!(masks.mask(&spec(7)).unwrap(), Mask::Causal));
        assert_eq!(masks.made.borrow().len(), 2);
    }

    #[test]
    fn a_ring_lies_newest_first_and_kept_before() {
        let spec =
            Spec { len: 1, before: 5, window: Some(2), ring: Some(Ring { keep: 1, newest: 2 }), ..Spec::default() };
        // In the order of time the last two of six are seen: the newest at 2 and the one before it at 1.
        let seen = spec.build().unwrap().to_vec_exact::<bool>().unwrap();
        assert_eq!(seen, [false, true, true, false, false, false]);
    }
}
