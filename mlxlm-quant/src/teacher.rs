//! The model that another learns from.

use std::ops::Range;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, transforms};
use mlxlm_models::CausalLm;

use crate::Result;

/// Opens the teacher. It is opened for each batch, and closed while its student computes gradients, since its weights would stay in
/// memory otherwise; from a mapped file, that costs milliseconds.
pub type Teacher<'a> = &'a dyn Fn() -> Result<Box<dyn CausalLm>>;

/// What a teacher makes of a batch: the states before its head, which computes logits where they are used.
#[derive(Debug)]
pub(crate) struct Taught {
    /// The teacher, opened again, so that no more of it is in memory than its head.
    teacher: Box<dyn CausalLm>,
    /// `[1, B · L, D]`.
    states: Array,
}

impl Taught {
    /// Asks the teacher.
    ///
    /// # Shapes
    /// - `batch`: `[B, L]` of tokens
    pub(crate) fn read(open: Teacher<'_>, batch: &Array) -> Result<Self> {
        let states = open()?.hidden(batch, None)?;
        let states = states.reshape(&[1, -1, states.dim(-1)])?;
        transforms::eval([&states])?;
        Ok(Self { teacher: open()?, states })
    }

    /// The logits of some positions of the batch as one row: `[1, n, V]`.
    pub(crate) fn logits(&self, range: Range<i32>) -> Result<Array> {
        let logits = self.teacher.head(&self.states.try_index((.., range))?)?;
        transforms::eval([&logits])?;
        Ok(logits)
    }
}
