//! Writing into what the rows of a batch hold.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{by_kernel, plain};

#[cfg(test)]
mod tests;

/// What rows hold, with the tokens of a batch written over some of it: row `b` of `new` over the tokens `at[b]..at[b] + L` of
/// `held[b]`, in the type that is held. All rows are one operation.
///
/// An array is written in its own memory if nobody else has it when this is computed: neither the caller, who drops `held[b]` for
/// what is returned, nor an operation that is still to read it, nor another row. Else its contents are copied first, and stay whole.
///
/// # Shapes
/// - `held`: `B` arrays `[1, K, S, d]`, each with an `S` of its own, `at`: `B` numbers, `new`: `[B, K, L, d]`; results: those of
///   `held`
///
/// # Errors
/// If the numbers of rows or their shapes differ, or tokens do not fit into what is held.
#[track_caller]
pub fn write_rows(held: &[&Array], at: &[i32], new: &Array) -> Result<Vec<Array>, Exception> {
    check(held, at, new)?;
    if new.size() == 0 {
        return Ok(held.iter().map(|&held| held.clone()).collect());
    }
    by_kernel!(crate::kernels::write_rows(held, at, new));
    plain::write_rows(held, at, new)
}

#[track_caller]
fn check(held: &[&Array], at: &[i32], new: &Array) -> Result<(), Exception> {
    let &[b, k, l, d] = new.shape() else {
        return Err(Exception::custom(format!("new tokens must be [B, K, L, d], not {:?}", new.shape())));
    };
    if b == 0 || [held.len(), at.len()] != [b as usize; 2] {
        return Err(Exception::custom(format!(
            "new tokens {:?} need an array to be written to for each row, at least one, not {}, and as many places, not {}",
            new.shape(),
            held.len(),
            at.len()
        )));
    }
    for (row, (held, &at)) in held.iter().zip(at).enumerate() {
        let s = match held.shape() {
            &[1, heads, s, dims] if [heads, dims] == [k, d] => s,
            other => {
                return Err(Exception::custom(format!(
                    "row {row}: what is written to must be [1, {k}, S, {d}], as new tokens {:?} are, not {other:?}",
                    new.shape()
                )));
            }
        };
        if at < 0 || at.checked_add(l).is_none_or(|end| end > s) {
            return Err(Exception::custom(format!("row {row}: {l} tokens from {at} on do not fit into {s}")));
        }
    }
    Ok(())
}
