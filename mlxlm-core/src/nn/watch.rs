//! Hearing what the leaves of a model read and make while it runs on this thread: for calibration, which needs the inputs of
//! maps whatever architecture they are part of.
//!
//! Nothing is computed for it: what is heard are the arrays of the graph.

use std::cell::RefCell;
use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::Leaf;

/// Which leaf of a model that stays where it is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(usize);

impl Place {
    pub(super) fn of<T>(leaf: &T) -> Self {
        Self(std::ptr::from_ref(leaf).addr())
    }
}

impl Leaf<'_> {
    /// Where the leaf is: valid until the model is moved.
    pub fn place(self) -> Place {
        match self {
            Self::Linear(leaf) => Place::of(leaf),
            Self::Embedding(leaf) => Place::of(leaf),
            Self::Experts(leaf) => Place::of(leaf),
            Self::Heads(leaf) => Place::of(leaf),
            Self::Norm(leaf) => Place::of(leaf),
            Self::Conv1d(leaf) => Place::of(leaf),
            Self::Parameter(leaf) => Place::of(leaf),
        }
    }
}

/// What a linear map, a stack of experts or a norm read and made.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Which one.
    pub place: Place,
    /// Its input: `[…, in]`.
    pub x: Array,
    /// The expert of each row of the input, of a stack.
    pub indices: Option<Array>,
    /// What it made: `[…, out]`.
    pub y: Array,
}

#[derive(Debug, Default)]
struct Watch {
    replaced: BTreeMap<Place, Array>,
    heard: Vec<Heard>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Runs `f`, and says what the leaves read and made meanwhile, in their order. What `replaced` has of a leaf stands for what the
/// leaf makes, so that what comes before it need not be computed. A watch inside of another hides from it.
pub fn watch<T>(replaced: BTreeMap<Place, Array>, f: impl FnOnce() -> T) -> (T, Vec<Heard>) {
    /// Puts back what was before, also when `f` panics.
    struct Before(Option<Watch>);
    impl Drop for Before {
        fn drop(&mut self) {
            WATCH.set(self.0.take());
        }
    }
    let _before = Before(WATCH.replace(Some(Watch { replaced, heard: Vec::new() })));
    let result = f();
    let heard = WATCH.with_borrow_mut(|watch| watch.as_mut().map(|watch| std::mem::take(&mut watch.heard)));
    (result, heard.unwrap_or_default())
}

/// Whether somebody listens.
pub(super) fn is_watched() -> bool {
    WATCH.with_borrow(Option::is_some)
}

/// Tells whoever listens what the leaf `of` made of `x`, and gives what goes on.
pub(super) fn heard<T>(of: &T, x: &Array, indices: Option<&Array>, y: Array) -> Result<Array, Exception> {
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch else { return Ok(y) };
        let place = Place::of(of);
        let y = watch.replaced.get(&place).cloned().unwrap_or(y);
        watch.heard.push(Heard { place, x: x.clone(), indices: indices.cloned(), y: y.clone() });
        Ok(y)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, Matrix};

    #[test]
    fn maps_are_heard_and_replaced_only_while_watched() {
        let linear = Linear::new(Matrix::Dense(Array::from_slice(&[1_f32, 2.0], &[1, 2])), None);
        let x = Array::from_slice(&[3_f32, 4.0], &[1, 2]);
        let value = |y: &Array| y.try_item_exact::<f32>().unwrap();
        let (y, heard) = watch(BTreeMap::new(), || linear.forward(&x).unwrap());
        assert_eq!((value(&y), heard.len(), value(&heard[0].y)), (11.0, 1, 11.0));
        assert_eq!(heard[0].place, Leaf::Linear(&linear).place());
        let replaced = BTreeMap::from([(heard[0].place, Array::from_slice(&[7_f32], &[1, 1]))]);
        assert_eq!(value(&watch(replaced, || linear.forward(&x).unwrap()).0), 7.0);
        assert!(!is_watched());
        assert_eq!(value(&linear.forward(&x).unwrap()), 11.0);
    }
}
