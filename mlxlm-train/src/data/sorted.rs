//! Batches of rows of like length, padded.
//!
//! Ports `iterate_batches` of `mlx_lm/tuner/trainer.py` @ 0.32.2. Unusual: rows are sorted by their tokens, where the
//! reference sorts by the number of keys in the row's JSON; and padding is never a target, where the reference learns one
//! token of it after each row.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::{Batch, DataError, Example, Preference};
use crate::Result;

/// Rows are padded to one more than a multiple of this, so that few shapes occur.
const PAD_TO: usize = 32;

/// A row of a dataset, of which batches are made.
pub trait Row {
    /// What several rows make.
    type Batch;

    /// The tokens of its longest text.
    fn longest(&self) -> usize;

    /// A batch of rows, each cut after `max_len` tokens.
    fn batch(rows: &[&Self], max_len: usize) -> Self::Batch;
}

impl Row for Example {
    type Batch = Batch;

    fn longest(&self) -> usize {
        self.tokens.len()
    }

    fn batch(rows: &[&Self], max_len: usize) -> Batch {
        Batch::of_examples(rows, max_len)
    }
}

/// Both answers of several pairs, row by row.
#[derive(Debug, Clone)]
pub struct PreferenceBatch {
    /// The better ones.
    pub chosen: Batch,
    /// The worse ones.
    pub rejected: Batch,
}

impl Row for Preference {
    type Batch = PreferenceBatch;

    fn longest(&self) -> usize {
        self.chosen.tokens.len().max(self.rejected.tokens.len())
    }

    fn batch(rows: &[&Self], max_len: usize) -> PreferenceBatch {
        let of = |part: fn(&Self) -> &Example| {
            let part: Vec<&Example> = rows.iter().map(|row| part(row)).collect();
            Batch::of_examples(&part, max_len)
        };
        PreferenceBatch { chosen: of(|row| &row.chosen), rejected: of(|row| &row.rejected) }
    }
}

impl Batch {
    /// A batch of texts, each cut after `max_len` tokens and padded to the longest, rounded up to one more than a multiple
    /// of 32. What comes before the start of a text, and padding, is no target.
    pub fn of_examples(rows: &[&Example], max_len: usize) -> Self {
        let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        // One token more is read than predicted from, as in the reference: `[B, 1 + 32 n]` without the last column.
        let width = (1 + PAD_TO * longest.div_ceil(PAD_TO)).min(max_len.max(2));
        let len = width - 1;
        let (mut inputs, mut targets, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let tokens = &row.tokens[..row.tokens.len().min(width)];
            let at = |i: usize| tokens.get(i).map_or(0, |&token| token as i32);
            inputs.extend((0..len).map(at));
            targets.extend((1..=len).map(at));
            let learned = row.start.max(1)..tokens.len();
            mask.extend((1..=len).map(|i| if learned.contains(&i) { 1_f32 } else { 0.0 }));
        }
        Self::of([&inputs, &targets], &mask, rows.len())
    }
}

/// Endless batches of rows of like length; the batches stay the same, and their order is drawn anew for each epoch.
///
/// The order depends on the seed and the epoch only: a run that is resumed asks for [`Self::skip_to`].
#[derive(Debug)]
pub struct SortedBatches<'a, T> {
    rows: &'a [T],
    batches: Vec<Vec<usize>>,
    max_len: usize,
    seed: u64,
    position: u64,
    order: Vec<usize>,
}

impl<'a, T: Row> SortedBatches<'a, T> {
    /// Batches of `batch_size` rows, each cut after `max_len` tokens. Rows that fill no batch are left out: the longest.
    ///
    /// # Errors
    /// [`DataError::TooFewRows`] if the rows do not fill one batch.
    pub fn new(rows: &'a [T], batch_size: usize, max_len: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 || rows.len() < batch_size {
            return Err(DataError::TooFewRows { rows: rows.len(), batch_size }.into());
        }
        let batches = by_length(rows).chunks_exact(batch_size).map(<[usize]>::to_vec).collect();
        let mut all = Self { rows, batches, max_len, seed, position: 0, order: Vec::new() };
        all.skip_to(0);
        Ok(all)
    }

    /// Batches in an epoch.
    pub fn per_epoch(&self) -> usize {
        self.batches.len()
    }

    /// How many batches were handed out, over all epochs.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on as if this many batches had been handed out.
    pub fn skip_to(&mut self, position: u64) {
        self.position = position;
        self.shuffle();
    }

    /// How many rows are longer than `max_len`, and are cut.
    pub fn cut(&self) -> usize {
        self.batches.iter().flatten().filter(|&&i| self.rows[i].longest() > self.max_len).count()
    }

    fn shuffle(&mut self) {
        let epoch = self.position / self.batches.len() as u64;
        self.order = (0..self.batches.len()).collect();
        self.order.shuffle(&mut StdRng::seed_from_u64(self.seed.wrapping_add(epoch)));
    }
}

impl<T: Row> Iterator for SortedBatches<'_, T> {
    type Item = T::Batch;

    fn next(&mut self) -> Option<T::Batch> {
        let place = (self.position % self.batches.len() as u64) as usize;
        if place == 0 {
            self.shuffle();
        }
        self.position += 1;
        let rows: Vec<&T> = self.batches[self.order[place]].iter().map(|&i| &self.rows[i]).collect();
        Some(T::batch(&rows, self.max_len))
    }
}

/// All rows once, in batches of like length, shortest first; the last batch may be smaller. What a loss is measured on.
pub fn once<T: Row>(rows: &[T], batch_size: usize, max_len: usize) -> impl Iterator<Item = T::Batch> {
    let order = by_length(rows);
    let mut next = 0;
    std::iter::from_fn(move || {
        let batch = order.get(next..order.len().min(next + batch_size.max(1))).filter(|batch| !batch.is_empty())?;
        next += batch.len();
        let batch: Vec<&T> = batch.iter().map(|&i| &rows[i]).collect();
        Some(T::batch(&batch, max_len))
    })
}

fn by_length<T: Row>(rows: &[T]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| rows[i].longest());
    order
}
