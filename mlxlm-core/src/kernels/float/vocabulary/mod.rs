//! What is asked of a row of logits: the logarithm of the sum of exponentials, the largest entry, the most likely ones, and
//! a draw.

mod draw;
mod keep;
mod mass;

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{cross_entropy, isa, multiversion, takes};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

pub(crate) use draw::draw;
pub(crate) use keep::{Keep, keep};

thread_local! {
    /// A row of a 16-bit type as f32.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// # Shapes
/// - `x`: `[…, V]`, result: `[…, 1]`
#[track_caller]
pub(crate) fn logsumexp(x: &Array) -> Result<Option<Array>, Exception> {
    if x.ndim() == 0 || !takes([x]) {
        return Ok(None);
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = 1;
    }
    apply_one(LogSumExp, &[x], &shape, x.dtype()).map(Some)
}

/// # Shapes
/// - `x`: `[…, V]`, result: `[…]` of `u32`
#[track_caller]
pub(crate) fn argmax(x: &Array) -> Result<Option<Array>, Exception> {
    if x.ndim() == 0 || !takes([x]) {
        return Ok(None);
    }
    apply_one(ArgMax, &[x], &x.shape()[..x.ndim() - 1], Dtype::Uint32).map(Some)
}

/// Calls `visit(i, row)` for each row, in parallel.
fn each_row(view: &View<'_>, visit: impl Fn(usize, &[f32]) + Sync) {
    let mut copies = Copies::default();
    let (values, isa) = (Values::new(view, &mut copies), isa());
    let width = view.shape.last().map_or(1, |&size| size as usize);
    let rows = values.len() / width.max(1);
    pool::parallel_ranges(rows, 1, rows, |from, to| {
        with_scratch(&ROOM, width, |room| {
            for i in from..to {
                visit(i, values.part(isa, i * width, (i + 1) * width, room));
            }
        });
    });
}

#[derive(Debug)]
struct LogSumExp;

impl Operation for LogSumExp {
    fn name(&self) -> &'static CStr {
        c"LogSumExp"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let out = Results::new(&mut outputs[0]);
        each_row(&inputs[0], |i, row| {
            // SAFETY: each row is visited once.
            unsafe { out.write(isa(), i, &mut [cross_entropy::log_sum_exp(isa(), row)]) };
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let weights = at.primals[0].subtract(&at.outputs[0])?.exp()?;
        Ok(vec![weights.multiply(&at.cotangents[0])?])
    }
}

#[derive(Debug)]
struct ArgMax;

impl Operation for ArgMax {
    fn name(&self) -> &'static CStr {
        c"ArgMax"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let out = Shared(outputs[0].as_mut_slice::<u32>().as_mut_ptr());
        each_row(&inputs[0], |i, row| {
            // SAFETY: each row is visited once.
            unsafe { *out.get().add(i) = first_largest(isa(), row) as u32 };
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("an index has no gradient"))
    }
}

multiversion! {
    /// The index of the largest value, the first of equals; what is not a number counts as larger than all.
    fn first_largest(row: &[f32]) -> usize {
        let largest = mass::largest_of(row);
        row.iter().position(|value| if largest.is_nan() { value.is_nan() } else { *value >= largest }).unwrap_or(0)
    }
}
