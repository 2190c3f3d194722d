//! `x / rms(x) * weight` (arXiv:1910.07467) and its gradient.

use std::cell::Cell;
use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{isa, math, multiversion, takes, widened};
use crate::kernels::convert::{self, Copies, Results, Values};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};
use crate::kernels::scratch::{Scratch, with_scratch};

thread_local! {
    /// Rows of 16-bit types as f32.
    static ROOM: Scratch = const { Cell::new(Vec::new()) };
}

/// Rows that a task of the forward pass computes.
const ROWS: usize = 64;
/// Into how many parts the rows go whose gradients for the weight are summed apart: a constant, so that the sum is one too.
const PARTS: usize = 16;

/// # Shapes
/// - `x`: `[…, D]`, `weight`: `[D]`, of one floating-point type; result: `[…, D]`
#[track_caller]
pub(crate) fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Option<Array>, Exception> {
    let Some(weight) = weight else { return Ok(None) };
    if !takes([x, weight]) || x.ndim() == 0 || weight.shape() != [x.dim(-1)] {
        return Ok(None);
    }
    apply_one(RmsNorm { eps }, &[x, weight], x.shape(), x.dtype()).map(Some)
}

#[derive(Debug)]
struct RmsNorm {
    eps: f32,
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static CStr {
        c"RmsNorm"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b, mut c) = (Copies::default(), Copies::default(), Vec::new());
        let (x, isa) = (Values::new(&inputs[0], &mut a), isa());
        let weight = widened(isa, Values::new(&inputs[1], &mut b), &mut c);
        let (out, dims) = (Results::new(&mut outputs[0]), weight.len());
        let rows = x.len() / dims.max(1);
        pool::parallel_ranges(rows, ROWS, rows.div_ceil(ROWS), |from, to| {
            with_scratch(&ROOM, 2 * dims, |room| {
                let (a, b) = room.split_at_mut(dims);
                for row in from..to {
                    let (from, to) = (row * dims, (row + 1) * dims);
                    let x = x.part(isa, from, to, a);
                    // SAFETY: rows are written by one task each.
                    unsafe { out.part(isa, from, to, b, |out| forward(isa, x, weight, self.eps, out)) };
                }
            });
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (x, weight) = (&at.primals[0], &at.primals[1]);
        let shapes = [(x.shape(), x.dtype()), (weight.shape(), weight.dtype())];
        let gradients = apply(RmsNormGradient { eps: self.eps }, &[x, weight, &at.cotangents[0]], &shapes)?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

#[derive(Debug)]
struct RmsNormGradient {
    eps: f32,
}

impl Operation for RmsNormGradient {
    fn name(&self) -> &'static CStr {
        c"RmsNormGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b, mut c, mut d) = (Copies::default(), Copies::default(), Copies::default(), Vec::new());
        let (x, dy, isa) = (Values::new(&inputs[0], &mut a), Values::new(&inputs[2], &mut c), isa());
        let weight = widened(isa, Values::new(&inputs[1], &mut b), &mut d);
        let [dx, d_weight] = outputs else { unreachable!("there are two outputs") };
        let (dx, dims) = (Results::new(dx), weight.len());
        let rows = x.len() / dims.max(1);
        // One part more than there are tasks, for the sum of all.
        let mut partial = vec![0.0_f32; (PARTS + 1) * dims];
        let sums = Shared(partial.as_mut_ptr());
        pool::parallel(PARTS, |part| {
            // SAFETY: partial sums are written by one task each.
            let sums = unsafe { std::slice::from_raw_parts_mut(sums.get().add(part * dims), dims) };
            with_scratch(&ROOM, 3 * dims, |room| {
                let (a, room) = room.split_at_mut(dims);
                let (b, c) = room.split_at_mut(dims);
                for row in part * rows / PARTS..(part + 1) * rows / PARTS {
                    let (from, to) = (row * dims, (row + 1) * dims);
                    let (x, dy) = (x.part(isa, from, to, a), dy.part(isa, from, to, b));
                    // SAFETY: rows are written by one task each.
                    unsafe { dx.part(isa, from, to, c, |dx| backward(isa, x, weight, dy, self.eps, dx, sums)) };
                }
            });
        });
        let (parts, total) = partial.split_at_mut(PARTS * dims);
        for part in parts.chunks(dims.max(1)) {
            total.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        convert::write(isa, total, d_weight);
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a norm has no gradient of its own"))
    }
}

multiversion! {
    fn forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let dims = weight.len();
        for (x, out) in x.chunks_exact(dims).zip(out.chunks_exact_mut(dims)) {
            let r = 1.0 / (math::dot(x, x) / dims as f32 + eps).sqrt();
            for i in 0..dims {
                out[i] = x[i] * r * weight[i];
            }
        }
    }
}

multiversion! {
    fn backward(x: &[f32], weight: &[f32], dy: &[f32], eps: f32, dx: &mut [f32], d_weight: &mut [f32]) {
        let dims = weight.len();
        let d_weight = &mut d_weight[..dims];
        for ((x, dy), dx) in x.chunks_exact(dims).zip(dy.chunks_exact(dims)).zip(dx.chunks_exact_mut(dims)) {
            let r = 1.0 / (math::dot(x, x) / dims as f32 + eps).sqrt();
            for i in 0..dims {
                dx[i] = dy[i] * weight[i];
                d_weight[i] += dy[i] * x[i] * r;
            }
            let along = math::dot(dx, x) * r * r / dims as f32;
            for i in 0..dims {
                dx[i] = r * (dx[i] - along * x[i]);
            }
        }
    }
}
