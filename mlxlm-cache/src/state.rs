//! The cache of recurrent layers: a few arrays that stand for all that was read.
//!
//! Ports `ArraysCache` (`mlx_lm/models/cache.py` 0.32.2). A state cannot be trimmed: what it was is only known from a
//! snapshot. Unusual: rows of a batch own their states, which stay together in one array for as long as the batch is the same;
//! and a pass can be [replayed](Replay), so that tokens which turn out wrong cost no second pass.

use std::fmt;
use std::rc::Rc;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, Exception, ops};

use crate::{Error, Result};

/// The state of one recurrent layer, for one sequence or several that have read as much.
#[derive(Debug, Clone, Default)]
pub struct StateCache {
    slots: Vec<Option<Kept>>,
    /// Whether its matrices are kept in bf16.
    narrow: bool,
    /// How each array was made by the last pass, if it was to be noted.
    replays: Option<Vec<Option<RowReplay>>>,
}

/// Makes an array of the state again, from what a pass was given, as if the pass had been its beginning only.
#[derive(Clone)]
pub struct Replay(Rc<dyn Fn(Beginning) -> mlxlm_core::Result<Array>>);

impl Replay {
    /// `make` returns the array of one row behind its first tokens.
    pub fn new(make: impl Fn(Beginning) -> mlxlm_core::Result<Array> + 'static) -> Self {
        Self(Rc::new(make))
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}

/// The first tokens of a pass, in one of its rows.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    row: i32,
    tokens: i32,
}

impl Beginning {
    /// Of an operand whose first axis is the batch and whose second are the tokens: `[B, L, …]` to `[1, tokens, …]`.
    pub fn of(self, x: &Array) -> Result<Array, Exception> {
        self.row(x)?.try_index((.., ..self.tokens))
    }

    /// As [`of`](Self::of), with heads between: `[B, H, L, …]` to `[1, H, tokens, …]`.
    pub fn of_heads(self, x: &Array) -> Result<Array, Exception> {
        self.row(x)?.try_index((.., .., ..self.tokens))
    }

    /// Of an array without tokens: `[B, …]` to `[1, …]`.
    pub fn row(self, x: &Array) -> Result<Array, Exception> {
        x.try_index(self.row..self.row + 1)
    }

    /// Of the state before the pass, if there was one: `[B, …]` to `[1, …]`.
    pub fn before(self, state: Option<&Array>) -> Result<Option<Array>, Exception> {
        state.map(|state| self.row(state)).transpose()
    }
}

/// A replay, and the row of the pass that is this state's.
#[derive(Debug, Clone)]
struct RowReplay {
    replay: Replay,
    row: i32,
}

/// An array of the state: of its own, or a row of one that a batch has made.
#[derive(Debug, Clone)]
enum Kept {
    Own(Array),
    Row(Rc<Array>, i32),
}

impl StateCache {
    /// An empty state of `slots` arrays.
    pub fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots], narrow: false, replays: None }
    }

    /// Has the matrices of the state kept in bf16, or in f32, from the next tokens on.
    pub(crate) fn set_narrow(&mut self, narrow: bool) {
        self.narrow = narrow;
    }

    /// The type that its matrices are kept in.
    pub(crate) fn matrix_dtype(&self) -> Dtype {
        if self.narrow { Dtype::Bfloat16 } else { Dtype::Float32 }
    }

    /// Whether it keeps a matrix in bf16 because it is to.
    pub(crate) fn has_narrow(&self) -> bool {
        self.narrow && self.arrays().any(|array| array.ndim() == 4 && array.dtype() == Dtype::Bfloat16)
    }

    /// How many arrays it has.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// An array of the state, once it is set.
    pub fn get(&self, slot: usize) -> Result<Option<Array>> {
        match self.slots.get(slot) {
            None | Some(None) => Ok(None),
            Some(Some(Kept::Own(array))) => Ok(Some(array.clone())),
            Some(Some(Kept::Row(batch, row))) => Ok(Some(batch.try_index(*row..row + 1)?)),
        }
    }

    /// Replaces an array of the state; the first axis is the batch. `replay` says how the pass made it.
    pub fn set(&mut self, slot: usize, array: Array, replay: Option<&Replay>) -> Result<()> {
        self.keep(slot, Kept::Own(array), replay.map(|replay| RowReplay { replay: replay.clone(), row: 0 }))
    }

    fn keep(&mut self, slot: usize, kept: Kept, replay: Option<RowReplay>) -> Result<()> {
        let slots = self.slots.len();
        *self.slots.get_mut(slot).ok_or(Error::Slot { slot, slots })? = Some(kept);
        if let Some(place) = self.replays.as_mut().and_then(|replays| replays.get_mut(slot)) {
            *place = replay;
        }
        Ok(())
    }

    /// Has the operands of the next pass kept, so that it can be replayed, or no longer.
    pub(crate) fn note_pass(&mut self, noted: bool) {
        self.replays = noted.then(|| vec![None; self.slots.len()]);
    }

    /// Whether [`replay`](Self::replay) can make all arrays again.
    pub(crate) fn is_replayable(&self) -> bool {
        let replays = |replays: &Vec<_>| !replays.is_empty() && replays.iter().all(Option::is_some);
        self.replays.as_ref().is_some_and(replays)
    }

    /// Makes the state what it was behind the first `tokens` of the pass that was noted.
    pub(crate) fn replay(&mut self, tokens: i32) -> Result<()> {
        let replays = self.replays.take().unwrap_or_default();
        for (slot, of) in replays.into_iter().enumerate() {
            if let Some(RowReplay { replay: Replay(make), row }) = of {
                self.slots[slot] = Some(Kept::Own(make(Beginning { row, tokens })?));
            }
        }
        Ok(())
    }

    /// The arrays of all rows as one: without a copy if these rows, in this order, were kept together last time. A row that has
    /// none yet is zero.
    pub(crate) fn of_rows(rows: &[&Self], slot: usize) -> Result<Option<Array>> {
        if let Some(together) = together(rows, slot) {
            return Ok(Some(together.clone()));
        }
        let arrays = rows.iter().map(|row| row.get(slot)).collect::<Result<Vec<_>>>()?;
        let Some(like) = arrays.iter().flatten().next() else { return Ok(None) };
        let row = |array: &Option<Array>| match array {
            Some(array) => Ok(array.clone()),
            None => ops::zeros_dtype(&[&[1], &like.shape()[1..]].concat(), like.dtype()),
        };
        let rows = arrays.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(ops::concatenate(&rows, 0)?))
    }

    /// Keeps each row of an array for the state that it belongs to.
    pub(crate) fn keep_rows<'a>(
        rows: impl ExactSizeIterator<Item = &'a mut Self>,
        slot: usize,
        array: Array,
        replay: Option<&Replay>,
    ) -> Result<()> {
        let batch = Rc::new(array);
        let got = batch.shape().first().copied().unwrap_or(0);
        if got as usize != rows.len() {
            let expected = format!("[{}, …]", rows.len());
            return Err(Error::Shape { what: "a state", expected, got: batch.shape().to_vec() });
        }
        rows.zip(0..).try_for_each(|(state, row)| {
            let replay = replay.map(|replay| RowReplay { replay: replay.clone(), row });
            state.keep(slot, Kept::Row(Rc::clone(&batch), row), replay)
        })
    }

    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.slots.iter().flatten().map(|kept| match kept {
            Kept::Own(array) => array,
            Kept::Row(batch, _) => batch.as_ref(),
        })
    }

    /// The memory of its arrays, in bytes; of one that a batch has made, its part.
    pub(crate) fn nbytes(&self) -> usize {
        let bytes = |kept: &Kept| match kept {
            Kept::Own(array) => array.nbytes(),
            Kept::Row(batch, _) => batch.nbytes() / batch.dim(0).max(1) as usize,
        };
        self.slots.iter().flatten().map(bytes).sum()
    }
}

/// The array that a batch of exactly these rows has made.
fn together<'a>(rows: &[&'a StateCache], slot: usize) -> Option<&'a Array> {
    let row = |state: &&'a StateCache| match state.slots.get(slot) {
        Some(Some(Kept::Row(batch, row))) => Some((batch, *row)),
        _ => None,
    };
    let (first, _) = row(rows.first()?)?;
    let in_place = |(i, state): (usize, &&'a StateCache)| {
        row(state).is_some_and(|(batch, row)| Rc::ptr_eq(batch, first) && row as usize == i)
    };
    let all = first.dim(0) as usize == rows.len() && rows.iter().enumerate().all(in_place);
    all.then_some(first.as_ref())
}
