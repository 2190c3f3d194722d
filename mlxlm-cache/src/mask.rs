//! Which keys a query sees, by a rule.
//!
//! An array is only made where a window, a chunk or padding hides something from somebody and no kernel follows the rule; it
//! is made on the device, once for all layers of a forward pass that need the same one.

use std::cell::RefCell;

use mlxlm_core::Array;
use mlxlm_core::fast::{Causal, plain};

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

    /// What `spec` comes to as an array.
    pub(crate) fn array(&self, spec: &Spec) -> Result<Array> {
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
    /// Which of those before it a query sees, and where they lie.
    pub rule: Causal,
}

impl Spec {
    pub(crate) fn keys(&self) -> i32 {
        self.before + self.len
    }

    /// Whether any key is hidden from a query that comes after it.
    pub(crate) fn hides(&self) -> bool {
        self.rule.hides(self.keys())
    }

    fn build(&self) -> Result<Array> {
        Ok(plain::seen(&self.rule, self.len, self.keys())?)
    }
}

#[cfg(test)]
mod tests {
    use mlxlm_core::fast::Ring;

    use super::*;

    #[test]
    fn equal_rules_share_one_array() {
        let masks = Masks::default();
        let window = |window| Causal { window: Some(window), ..Causal::default() };
        let spec = |keys| Spec { len: 3, before: 4, rule: window(keys) };
        for window in [5, 6, 5, 5] {
            assert!(matches!(masks.mask(&spec(window)).unwrap(), Mask::Array(_)));
        }
        assert!(matches!(masks.mask(&spec(7)).unwrap(), Mask::Causal));
        assert_eq!(masks.made.borrow().len(), 2);
    }

    #[test]
    fn a_ring_lies_newest_first_and_kept_before() {
        let ring = Some(Ring { keep: 1, newest: 2 });
        let spec = Spec { len: 1, before: 5, rule: Causal { window: Some(2), ring, ..Causal::default() } };
        // In the order of time the last two of six are seen: the newest at 2 and the one before it at 1.
        let seen = spec.build().unwrap().to_vec_exact::<bool>().unwrap();
        assert_eq!(seen, [false, true, true, false, false, false]);
    }
}
