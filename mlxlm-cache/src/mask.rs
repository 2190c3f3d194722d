//! Which keys a query sees: a rule over keys in the order of time, and where they lie in another one.
//!
//! An array is only made where a window, a chunk or padding hides something from somebody and no kernel follows the rule; it
//! is made on the device, once for all layers of a forward pass that need the same one.

use std::cell::RefCell;

use mlxlm_core::fast::{Causal, plain};
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
    /// Which of those before it a query sees.
    pub rule: Causal,
    /// Keys do not lie in the order of time, but in that of a ring.
    pub ring: Option<Ring>,
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
    pub(crate) fn hides(&self) -> bool {
        self.rule.hides(self.keys())
    }

    fn build(&self) -> Result<Array> {
        let seen = plain::seen(&self.rule, self.len, self.keys())?;
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
        let window = |window| Causal { window: Some(window), ..Causal::default() };
        let spec = |keys| Spec { len: 3, before: 4, rule: window(keys), ring: None };
        for window in [5, 6, 5, 5] {
            assert!(matches!(masks.mask(&spec(window)).unwrap(), Mask::Array(_)));
        }
        assert!(matches!(masks.mask(&spec(7)).unwrap(), Mask::Causal));
        assert_eq!(masks.made.borrow().len(), 2);
    }

    #[test]
    fn a_ring_lies_newest_first_and_kept_before() {
        let rule = Causal { window: Some(2), ..Causal::default() };
        let spec = Spec { len: 1, before: 5, rule, ring: Some(Ring { keep: 1, newest: 2 }) };
        // In the order of time the last two of six are seen: the newest at 2 and the one before it at 1.
        let seen = spec.build().unwrap().to_vec_exact::<bool>().unwrap();
        assert_eq!(seen, [false, true, true, false, false, false]);
    }
}
