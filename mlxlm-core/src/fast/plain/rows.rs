//! Operations over the rows of a batch that each own their memory, one row after the other.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{IndexUpdateError, TryIndexUpdateOp, UpdateMode};
use mlx_rs::{Array, ops};

use crate::fast::{self, Attention, Row, RowsAttention, Sight};

/// See [`crate::fast::attend_rows`].
#[track_caller]
pub fn attend_rows(q: &Array, rows: &[Row<'_>], how: &RowsAttention<'_>) -> Result<Array, Exception> {
    one_by_one([q], rows, how, |[q], row, how| fast::attend(&q, row.keys, row.values, how))
}

/// See [`crate::fast::attend_latent_rows`].
#[track_caller]
pub fn attend_latent_rows(
    q_nope: &Array,
    q_pe: &Array,
    rows: &[Row<'_>],
    how: &RowsAttention<'_>,
) -> Result<Array, Exception> {
    one_by_one([q_nope, q_pe], rows, how, |[q_nope, q_pe], row, how| {
        fast::attend_latent(&q_nope, &q_pe, row.keys, row.values, how)
    })
}

/// What `attend` makes of each row of the queries and what that row holds, one behind the other.
fn one_by_one<const N: usize>(
    q: [&Array; N],
    rows: &[Row<'_>],
    how: &RowsAttention<'_>,
    attend: impl Fn([Array; N], &Row<'_>, &Attention<'_>) -> Result<Array, Exception>,
) -> Result<Array, Exception> {
    let count = rows.len() as i32;
    let mut parts = Vec::with_capacity(N);
    for q in q {
        parts.push(if count == 1 { vec![q.clone()] } else { ops::split_equal(q, count, 0)? }.into_iter());
    }
    let mut results = Vec::with_capacity(rows.len());
    for row in rows {
        let of_row: Vec<Array> = parts.iter_mut().filter_map(Iterator::next).collect();
        let of_row = of_row.try_into().map_err(|_| Exception::custom("queries lack a row"))?;
        let sight = Sight::causal(row.rule.clone());
        let how = Attention { scale: how.scale, softcap: how.softcap, sight, sinks: how.sinks };
        results.push(attend(of_row, row, &how)?);
    }
    if results.len() == 1 { Ok(results.remove(0)) } else { ops::concatenate(&results, 0) }
}

/// See [`crate::fast::write_rows`].
#[track_caller]
pub fn write_rows(held: &[&Array], at: &[i32], new: &Array) -> Result<Vec<Array>, Exception> {
    let parts = ops::split_equal(new, held.len() as i32, 0)?;
    let tokens = new.dim(2);
    let write = |((held, &at), new): ((&&Array, &i32), &Array)| {
        held.try_index_update((.., .., at..at + tokens, ..), new, UpdateMode::Replace).map_err(|error| match error {
            IndexUpdateError::Exception(exception) => exception,
            error @ IndexUpdateError::ZeroStride { .. } => Exception::custom(error.to_string()),
        })
    };
    held.iter().zip(at).zip(&parts).map(write).collect()
}
