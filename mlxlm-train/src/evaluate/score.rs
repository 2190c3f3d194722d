//! The log-probabilities that a model gives to tokens, in batches of like length.

use std::ops::Range;

use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::{Array, Dtype, fast, transforms};
use mlxlm_models::CausalLm;

use crate::Result;
use crate::data::{Batch, Example};

/// Rows of logits that are made at once, so that a long batch does not hold all of them.
const ROWS: usize = 256;

/// What a model thinks of the learned part of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The sum of the log-probabilities.
    pub log_probability: f64,
    /// Whether each of its tokens is the most likely one.
    pub is_greedy: bool,
    /// How many tokens were scored.
    pub tokens: usize,
}

/// What a model makes of some rows: where their learned tokens are, and the states before them.
pub(super) struct Learned {
    /// `[N, D]`.
    states: Array,
    /// `[N]`.
    targets: Vec<i32>,
    /// How many of them each row has.
    counts: Vec<usize>,
}

impl Learned {
    /// Reads the rows together.
    pub(super) fn read(model: &dyn CausalLm, rows: &[&Example]) -> Result<Self> {
        let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let batch = Batch::of_examples(rows, longest.max(2));
        let hidden = model.hidden(&batch.inputs, None)?;
        let (len, dims) = (hidden.dim(1), hidden.dim(2));
        let (mut places, mut targets, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (i, row) in (0..).zip(rows) {
            let range = row.start.max(1)..row.tokens.len();
            counts.push(range.len());
            for place in range {
                places.push(i * len + place as i32 - 1);
                targets.push(row.tokens[place] as i32);
            }
        }
        let states = hidden.reshape(&[-1, dims])?;
        let states = states.take_axis(Array::from_slice(&places, &[places.len() as i32]), 0)?;
        if !targets.is_empty() {
            transforms::eval([&states])?;
        }
        Ok(Self { states, targets, counts })
    }

    /// The learned tokens in pieces whose logits are in memory at once.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        let total = self.targets.len();
        (0..total).step_by(ROWS).map(move |from| from..total.min(from + ROWS))
    }

    /// The logits that the model has where the tokens of a piece come next: `[1, n, V]`.
    pub(super) fn logits(&self, model: &dyn CausalLm, piece: &Range<usize>) -> Result<Array> {
        let states = self.states.try_index(piece.start as i32..piece.end as i32)?;
        Ok(model.head(&states.expand_dims(0)?)?)
    }

    /// The tokens of a piece: `[1, n]`.
    pub(super) fn targets(&self, piece: Range<usize>) -> Array {
        let targets = &self.targets[piece];
        Array::from_slice(targets, &[1, targets.len() as i32])
    }
}

/// The loss of each learned token of some rows, which are read together, and whether it was the most likely one.
///
/// # Errors
/// Those of the model.
pub fn token_losses(model: &dyn CausalLm, rows: &[&Example]) -> Result<Vec<Vec<(f32, bool)>>> {
    let learned = Learned::read(model, rows)?;
    let mut flat = Vec::with_capacity(learned.targets.len());
    for piece in learned.pieces() {
        let (logits, targets) = (learned.logits(model, &piece)?, learned.targets(piece));
        let losses = fast::cross_entropy(&logits, &targets)?;
        let best = fast::argmax(&logits)?.as_dtype(Dtype::Int32)?.eq(&targets)?;
        transforms::eval([&losses, &best])?;
        let (losses, best) = (floats(&losses)?, floats(&best)?);
        flat.extend(losses.into_iter().zip(best.into_iter().map(|best| best != 0.0)));
    }
    let mut flat = flat.into_iter();
    Ok(learned.counts.into_iter().map(|count| flat.by_ref().take(count).collect()).collect())
}

/// The numbers of an array.
pub(super) fn floats(array: &Array) -> Result<Vec<f32>> {
    Ok(array.as_dtype(Dtype::Float32)?.to_vec_cast::<f32>().map_err(mlxlm_core::Error::from)?)
}

/// The score of each row, in their order; rows of like length are read together, `batch_size` at a time. `done` hears how
/// many are scored.
///
/// # Errors
/// Those of the model.
pub fn scores(
    model: &dyn CausalLm,
    rows: &[Example],
    batch_size: usize,
    mut done: impl FnMut(usize),
) -> Result<Vec<Score>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(rows[i].tokens.len()));
    let mut scores = vec![Score { log_probability: 0.0, is_greedy: true, tokens: 0 }; rows.len()];
    let mut count = 0;
    for places in order.chunks(batch_size.max(1)) {
        let batch: Vec<&Example> = places.iter().map(|&i| &rows[i]).collect();
        for (&place, losses) in places.iter().zip(token_losses(model, &batch)?) {
            scores[place] = Score {
                log_probability: -losses.iter().map(|&(loss, _)| f64::from(loss)).sum::<f64>(),
                is_greedy: losses.iter().all(|&(_, best)| best),
                tokens: losses.len(),
            };
        }
        count += places.len();
        done(count);
    }
    Ok(scores)
}
