//! The softmax over the last axis, and its gradient.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{isa, math, multiversion, takes};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    /// Rows of 16-bit types as f32.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// Values that a task computes at least, in whole rows.
const CHUNK: usize = 1 << 13;

/// `e^x / Σ e^x` over the last axis; not a number in all of a row whose largest value is infinite, or that holds one.
///
/// # Shapes
/// - `x`: `[…, V]` of a floating-point type, and the same comes back
#[track_caller]
pub(crate) fn softmax(x: &Array) -> Result<Option<Array>, Exception> {
    if x.ndim() == 0 || !takes([x]) {
        return Ok(None);
    }
    apply_one(Softmax, &[x], x.shape(), x.dtype()).map(Some)
}

/// Computes each row of the output from the same row of all inputs, with room for as many rows.
pub(super) fn each_row<const N: usize>(
    inputs: &[View<'_>],
    output: &mut ViewMut<'_>,
    fill: impl Fn(Isa, [&[f32]; N], &mut [f32]) + Sync,
) {
    let mut copies = [(); N].map(|()| Copies::default());
    let mut views = inputs.iter().zip(&mut copies).map(|(view, copies)| Values::new(view, copies));
    let values: [Values<'_>; N] = std::array::from_fn(|_| views.next().unwrap_or(Values::F32(&[])));
    let dims = output.shape.last().map_or(1, |&size| size as usize);
    let (rows, out, isa) = (output.len() / dims.max(1), Results::new(output), isa());
    let step = CHUNK.div_ceil(dims.max(1));
    pool::parallel_ranges(rows, step, rows.div_ceil(step), |from, to| {
        with_scratch(&ROOM, (N + 1) * dims, |room| {
            for row in from..to {
                let (from, to) = (row * dims, (row + 1) * dims);
                let (result, rest) = room.split_at_mut(dims);
                let mut rest = rest.chunks_exact_mut(dims);
                let rows = values.map(|values| values.part(isa, from, to, rest.next().unwrap_or_default()));
                // SAFETY: rows are written by one task each.
                unsafe { out.part(isa, from, to, result, |out| fill(isa, rows, out)) };
            }
        });
    });
}

#[derive(Debug)]
struct Softmax;

impl Operation for Softmax {
    fn name(&self) -> &'static CStr {
        c"Softmax"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        each_row(inputs, &mut outputs[0], |isa, [x], out| forward(isa, x, out));
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (y, dy) = (&at.outputs[0], &at.cotangents[0]);
        Ok(vec![apply_one(SoftmaxGradient, &[y, dy], y.shape(), y.dtype())?])
    }
}

#[derive(Debug)]
struct SoftmaxGradient;

impl Operation for SoftmaxGradient {
    fn name(&self) -> &'static CStr {
        c"SoftmaxGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        each_row(inputs, &mut outputs[0], |isa, [y, dy], out| backward(isa, y, dy, out));
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a softmax has no gradient of its own"))
    }
}

multiversion! {
    fn forward(x: &[f32], out: &mut [f32]) {
        let (largest, x) = (math::max(x), &x[..out.len()]);
        for i in 0..out.len() {
            out[i] = math::exp(x[i] - largest);
        }
        // Of infinities only is said what MLX says: nothing.
        let factor = if largest.is_infinite() { f32::NAN } else { 1.0 / math::sum(out) };
        for out in out.iter_mut() {
            *out *= factor;
        }
    }
}

multiversion! {
    fn backward(y: &[f32], dy: &[f32], out: &mut [f32]) {
        let (y, dy, along) = (&y[..out.len()], &dy[..out.len()], math::dot(y, dy));
        for i in 0..out.len() {
            out[i] = y[i] * (dy[i] - along);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{each_level, numbers};
    use super::*;

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in numbers(1..600)) {
            each_level(x.len(), |isa, out| forward(isa, &x, out))?;
            each_level(x.len(), |isa, out| backward(isa, &x, &x, out))?;
        }
    }
}
