//! The cache of recurrent layers: a few arrays that stand for all that was read.
//!
//! Ports `ArraysCache` (`mlx_lm/models/cache.py` 0.32.2). A state cannot be trimmed: what it was is only known from a
//! snapshot. Unusual: padding and lengths are numbers of ours, not arrays on the device.

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, ops};

use crate::{Error, Result};

/// The state of one recurrent layer.
#[derive(Debug, Clone, Default)]
pub struct StateCache {
    pub(crate) slots: Vec<Option<Array>>,
    /// For each row, the padding still to come in front of its tokens.
    pub(crate) left_padding: Option<Vec<i32>>,
    /// For each row, the tokens still to come before its padding.
    pub(crate) lengths: Option<Vec<i32>>,
}

impl StateCache {
    /// An empty state of `slots` arrays.
    pub fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots], left_padding: None, lengths: None }
    }

    /// How many arrays it has.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// An array of the state, once it is set.
    pub fn get(&self, slot: usize) -> Option<&Array> {
        self.slots.get(slot)?.as_ref()
    }

    /// Replaces an array of the state; the first axis is the batch.
    pub fn set(&mut self, slot: usize, array: Array) -> Result<()> {
        let slots = self.slots.len();
        *self.slots.get_mut(slot).ok_or(Error::Slot { slot, slots })? = Some(array);
        Ok(())
    }

    /// Says that `len` tokens were read.
    pub fn advance(&mut self, len: i32) {
        for count in self.left_padding.iter_mut().chain(&mut self.lengths).flatten() {
            *count = count.saturating_sub(len);
        }
    }

    /// Which of the next `len` tokens are none, in a padded batch: `[B, L]`, `true` for tokens. `None`: all are.
    pub fn mask(&self, len: i32) -> Result<Option<Array>> {
        let column = |counts: &[i32]| Array::from_slice(counts, &[counts.len() as i32, 1]);
        let positions = || ops::arange::<i32, i32>(0, len, None)?.expand_dims(0);
        let mut mask: Option<Array> = None;
        if let Some(padding) = self.left_padding.as_deref()
            && padding.iter().any(|&n| n > 0)
        {
            mask = Some(positions()?.ge(column(padding))?);
        }
        if let Some(lengths) = self.lengths.as_deref()
            && lengths.iter().any(|&n| n < len)
        {
            let within = positions()?.lt(column(lengths))?;
            mask = Some(match mask {
                Some(mask) => mask.logical_and(within)?,
                None => within,
            });
        }
        Ok(mask)
    }

    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.slots.iter().flatten()
    }

    /// Rows.
    pub(crate) fn batch(&self) -> i32 {
        let counts = self.left_padding.as_ref().or(self.lengths.as_ref());
        match self.arrays().next() {
            Some(array) => array.shape().first().copied().unwrap_or(1),
            None => counts.map_or(1, |counts| counts.len() as i32),
        }
    }

    pub(crate) fn filter(&mut self, rows: &[i32]) -> Result<()> {
        let index = Array::from_slice(rows, &[rows.len() as i32]);
        for array in self.slots.iter_mut().flatten() {
            *array = array.take_axis(&index, 0)?;
        }
        for counts in self.left_padding.iter_mut().chain(&mut self.lengths) {
            *counts = rows.iter().map(|&row| counts[row as usize]).collect();
        }
        Ok(())
    }

    pub(crate) fn extract(&self, row: i32) -> Result<Self> {
        let row = |array: &Option<Array>| array.as_ref().map(|array| array.try_index(row..row + 1)).transpose();
        Ok(Self { slots: self.slots.iter().map(row).collect::<Result<_, _>>()?, left_padding: None, lengths: None })
    }

    /// The states one behind the other, as rows; a state that is not set yet is zero.
    pub(crate) fn merge(states: &[&Self]) -> Result<Self> {
        let batches: Vec<i32> = states.iter().map(|state| state.batch()).collect();
        let slots = states.first().map_or(0, |state| state.slots());
        if let Some(other) = states.iter().find(|state| state.slots() != slots) {
            return Err(Error::Unlike { what: format!("{slots} arrays of state against {}", other.slots()) });
        }
        let merge_slot = |slot: usize| {
            let Some(like) = states.iter().find_map(|state| state.get(slot)) else { return Ok(None) };
            let rows = states.iter().zip(&batches).map(|(state, &batch)| {
                let zeros = || ops::zeros_dtype(&[&[batch], &like.shape()[1..]].concat(), like.dtype());
                state.get(slot).map_or_else(zeros, |array| Ok(array.clone()))
            });
            ops::concatenate(&rows.collect::<Result<Vec<_>, _>>()?, 0).map(Some)
        };
        let counts = |of: fn(&Self) -> Option<&Vec<i32>>, default: i32| {
            states.iter().any(|state| of(state).is_some()).then(|| {
                let rows = states.iter().zip(&batches);
                rows.flat_map(|(state, &n)| of(state).cloned().unwrap_or(vec![default; n as usize])).collect()
            })
        };
        let mut merged = Self {
            slots: (0..slots).map(merge_slot).collect::<Result<_, _>>()?,
            left_padding: counts(|state| state.left_padding.as_ref(), 0),
            lengths: counts(|state| state.lengths.as_ref(), i32::MAX),
        };
        if merged.arrays().next().is_none() && merged.left_padding.is_none() {
            // Nothing else would tell how many rows there are.
            merged.left_padding = Some(vec![0; batches.iter().sum::<i32>() as usize]);
        }
        Ok(merged)
    }
}
