//! `x / rms(x) * weight` (arXiv:1910.07467) and its gradient.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{isa, math, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};

/// Rows that a task of the forward pass computes.
const ROWS: usize = 64;
/// Into how many parts the rows go whose gradients for the weight are summed apart: a constant, so that the sum is one too.
const PARTS: usize = 16;

/// # Shapes
/// - `x`: `[…, D]`, `weight`: `[D]`, both `f32`; result: `[…, D]`
pub(crate) fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array, Exception> {
    apply_one(RmsNorm { eps }, &[x, weight], x.shape(), Dtype::Float32)
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
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let (x, weight) = (inputs[0].contiguous::<f32>(&mut a), inputs[1].contiguous::<f32>(&mut b));
        let (out, isa, dims) = (outputs[0].as_mut_slice::<f32>(), isa(), weight.len());
        let rows = x.len() / dims.max(1);
        let out = Shared(out.as_mut_ptr());
        pool::parallel_ranges(rows, ROWS, rows.div_ceil(ROWS), |from, to| {
            // SAFETY: rows are written by one task each.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(from * dims), (to - from) * dims) };
            forward(isa, &x[from * dims..to * dims], weight, self.eps, out);
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (x, weight) = (&at.primals[0], &at.primals[1]);
        let shapes = [(x.shape(), Dtype::Float32), (weight.shape(), Dtype::Float32)];
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
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        let (x, weight) = (inputs[0].contiguous::<f32>(&mut a), inputs[1].contiguous::<f32>(&mut b));
        let dy = inputs[2].contiguous::<f32>(&mut c);
        let [dx, d_weight] = outputs else { unreachable!("there are two outputs") };
        let (dx, d_weight) = (dx.as_mut_slice::<f32>(), d_weight.as_mut_slice::<f32>());
        let (isa, dims) = (isa(), weight.len());
        let rows = x.len() / dims.max(1);
        let mut partial = vec![0.0_f32; PARTS * dims];
        let (dx, sums) = (Shared(dx.as_mut_ptr()), Shared(partial.as_mut_ptr()));
        pool::parallel(PARTS, |part| {
            let (from, to) = (part * rows / PARTS, (part + 1) * rows / PARTS);
            // SAFETY: rows and partial sums are written by one task each.
            let (dx, sums) = unsafe {
                let dx = std::slice::from_raw_parts_mut(dx.get().add(from * dims), (to - from) * dims);
                (dx, std::slice::from_raw_parts_mut(sums.get().add(part * dims), dims))
            };
            backward(isa, &x[from * dims..to * dims], weight, &dy[from * dims..to * dims], self.eps, dx, sums);
        });
        d_weight.fill(0.0);
        for part in partial.chunks(dims.max(1)) {
            d_weight.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
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
