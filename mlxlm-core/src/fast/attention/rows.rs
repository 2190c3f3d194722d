//! Attention of a batch whose sequences each own their keys and values.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{Causal, Stored};
use crate::fast::{by_kernel, plain};

#[cfg(test)]
mod tests;

/// What one row of a batch of queries attends to. Rows may differ in how many keys they hold, in where these lie, and in how they
/// are quantized.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// `[1, K, S, d]`, with an `S` of this row.
    pub keys: Stored<'a>,
    /// `[1, K, S, e]`
    pub values: Stored<'a>,
    /// Which keys the row's queries see. Its padding and its documents have one entry at most.
    pub rule: Causal,
}

/// How all rows of a batch attend.
#[derive(Debug, Clone, Copy)]
pub struct RowsAttention<'a> {
    /// What scores are multiplied with, as in `1 / sqrt(d)`.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A score for each head that takes part in the softmax and has no value: `[H]`.
    pub sinks: Option<&'a Array>,
}

impl RowsAttention<'_> {
    /// Attention without a cap and without sinks.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, softcap: None, sinks: None }
    }
}

/// [`attend`](super::attend) for a batch of queries, each row of it to keys and values of its own, in one operation.
///
/// A row has the bits that it has alone. Where there is no kernel, rows are computed one after the other.
///
/// # Shapes
/// - `q`: `[B, H, L, d]`, `rows`: `B` of them; result: `[B, H, L, e]`
///
/// # Errors
/// If there are no rows or not `B` of them, if one has not the shapes that [`Row`] names, and those of [`attend`](super::attend).
#[track_caller]
pub fn attend_rows(q: &Array, rows: &[Row<'_>], how: &RowsAttention<'_>) -> Result<Array, Exception> {
    check(q, rows)?;
    by_kernel!(crate::kernels::attend_rows(q, rows, how));
    plain::attend_rows(q, rows, how)
}

/// [`attend_latent`](super::attend_latent) for a batch of queries, each row of it to latents of its own, in one operation.
///
/// A row has the bits that it has alone. Where there is no kernel, rows are computed one after the other.
///
/// # Shapes
/// - `q_nope`: `[B, H, L, r]`, `q_pe`: `[B, H, L, p]`, `rows`: `B` of them, whose keys are the latents `[1, K, S, r]` and whose
///   values are the keys of positions `[1, K, S, p]`; result: `[B, H, L, r]`
///
/// # Errors
/// As [`attend_rows`].
#[track_caller]
pub fn attend_latent_rows(
    q_nope: &Array,
    q_pe: &Array,
    rows: &[Row<'_>],
    how: &RowsAttention<'_>,
) -> Result<Array, Exception> {
    check(q_nope, rows)?;
    by_kernel!(crate::kernels::attend_latent_rows([q_nope, q_pe], rows, how));
    plain::attend_latent_rows(q_nope, q_pe, rows, how)
}

/// Checks that there is one row for each of the queries, and that each is one row.
#[track_caller]
fn check(q: &Array, rows: &[Row<'_>]) -> Result<(), Exception> {
    let batch = q.shape().first().map_or(0, |&batch| batch as usize);
    if batch != rows.len() || rows.is_empty() {
        return Err(Exception::custom(format!(
            "queries {:?} need keys and values for each row of the batch, at least one, not {}",
            q.shape(),
            rows.len()
        )));
    }
    for (i, row) in rows.iter().enumerate() {
        for (what, stored) in [("keys", row.keys), ("values", row.values)] {
            let shape = stored.array().shape();
            if !matches!(shape, [1, _, _, _]) {
                return Err(Exception::custom(format!("row {i}: {what} must be [1, K, S, d], not {shape:?}")));
            }
        }
        if row.rule.padding.len() > 1 {
            let given = row.rule.padding.len();
            return Err(Exception::custom(format!("row {i}: its rule may have one padding, not {given}")));
        }
        if row.rule.documents.len() > 1 {
            let given = row.rule.documents.len();
            return Err(Exception::custom(format!(
                "row {i}: its rule may have the documents of one row, not of {given}"
            )));
        }
    }
    Ok(())
}
