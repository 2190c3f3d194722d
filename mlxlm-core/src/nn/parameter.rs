//! An array that stands alone, and is multiplied with or added by hand.

use std::ops::Deref;

use mlx_rs::Array;

use super::Worth;
use crate::Result;
use crate::weights::{Init, Weights};

/// A trained array without a leaf of its own; its path is its whole name.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The numbers.
    pub value: Array,
    /// Whether they keep their type.
    pub worth: Worth,
}

impl Parameter {
    /// The array whose name is the path of `w`.
    pub fn load(w: &Weights, shape: &[i32], init: Init) -> Result<Self> {
        Ok(Self { value: w.parameter("", shape, init)?, worth: w.worth() })
    }
}

impl Deref for Parameter {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.value
    }
}
