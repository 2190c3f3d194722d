//! Tokens of a batch written over some of what each row holds: one operation for all rows, in place where nobody else has the memory.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::gemm::Shared;
use super::pool;
use super::primitive::{Gradient, Operation, View, ViewMut, apply_over, is_traced, on_cpu};

/// Bytes to be copied below which one thread does it sooner than it wakes others.
const FEW: usize = 256 << 10;

/// Rows written to by our kernel, or `None` where MLX's own updates are to be taken: of one row, of types that differ, under a
/// gradient, and on a GPU. Arguments are those of [`crate::fast::write_rows`], which has checked them.
#[track_caller]
pub(crate) fn write_rows(held: &[&Array], at: &[i32], new: &Array) -> Result<Option<Vec<Array>>, Exception> {
    if held.len() < 2 || !on_cpu() || held.iter().any(|held| held.dtype() != new.dtype()) {
        return Ok(None);
    }
    let mut inputs = held.to_vec();
    inputs.push(new);
    if is_traced(&inputs) {
        return Ok(None);
    }
    let at = at.iter().map(|&at| at as usize).collect();
    apply_over(WriteRows { at }, &inputs, held.len()).map(Some)
}

#[derive(Debug)]
struct WriteRows {
    /// Where the first new token of each row goes.
    at: Vec<usize>,
}

/// A result `[1, K, S, d]` that tasks fill in parts.
struct Target {
    data: Shared<u8>,
    /// Whether it has the contents of what is held already.
    is_written: bool,
}

impl Operation for WriteRows {
    fn name(&self) -> &'static CStr {
        c"WriteRows"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let Some((new, held)) = inputs.split_last() else { return };
        let target = |(held, out): (&View<'_>, &mut ViewMut<'_>)| Target {
            is_written: out.is_over(held),
            data: Shared(out.as_mut_bytes().as_mut_ptr()),
        };
        let targets: Vec<Target> = held.iter().zip(outputs).map(target).collect();
        let copied = |(held, target): (&View<'_>, &Target)| if target.is_written { 0 } else { held.len() };
        let copied: usize = held.iter().zip(&targets).map(copied).sum();
        let [heads, tokens, width] = [1, 2, 3].map(|axis| new.shape[axis] as usize);
        let row_bytes = width * new.item_size();
        let write = |task: usize| {
            let (row, head) = (task / heads, task % heads);
            let (target, room) = (&targets[row], held[row].shape[2] as usize);
            // SAFETY: a head of a result has room for all that is held of it, with nobody else writing there. What is new does not
            // lie in it: memory that an input shares is not written in place.
            unsafe {
                let to = target.data.get().add(head * room * row_bytes);
                if !target.is_written {
                    copy(&held[row], [0, head], room, to);
                }
                copy(new, [row, head], tokens, to.add(self.at[row] * row_bytes));
            }
        };
        let tasks = targets.len() * heads;
        if copied * new.item_size() < FEW {
            (0..tasks).for_each(write);
        } else {
            pool::parallel(tasks, write);
        }
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("under a gradient, rows are written to by updates"))
    }
}

/// Copies the first `tokens` tokens of a head, which may lie in any layout, one after the other to `to`.
///
/// # Safety
/// There must be so many, and room for them.
unsafe fn copy(from: &View<'_>, [row, head]: [usize; 2], tokens: usize, to: *mut u8) {
    let (size, width) = (from.item_size(), from.shape[3] as usize);
    let bytes = |axis: usize| from.strides[axis] as isize * size as isize;
    let (token, item) = (bytes(2), bytes(3));
    // SAFETY: shape and strides describe memory that MLX keeps while the task runs; the caller vouches for `to`.
    unsafe {
        let first = from.bytes().offset(row as isize * bytes(0) + head as isize * bytes(1));
        if width > 1 && item != size as isize {
            for i in 0..tokens * width {
                let at = (i / width) as isize * token + (i % width) as isize * item;
                std::ptr::copy_nonoverlapping(first.offset(at), to.add(i * size), size);
            }
        } else if tokens == 1 || token == (width * size) as isize {
            std::ptr::copy_nonoverlapping(first, to, tokens * width * size);
        } else {
            for i in 0..tokens {
                let from = first.offset(i as isize * token);
                std::ptr::copy_nonoverlapping(from, to.add(i * width * size), width * size);
            }
        }
    }
}
