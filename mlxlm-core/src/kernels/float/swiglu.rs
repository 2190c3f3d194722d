//! `silu(gate) * up` (arXiv:2002.05202) and its gradient.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{isa, math, multiversion};
use crate::kernels::gemm::Shared;
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};

/// Values that a task computes at least.
const CHUNK: usize = 1 << 14;

/// `silu(gate) * up` for two `f32` arrays of one shape.
pub(crate) fn swiglu(gate: &Array, up: &Array) -> Result<Array, Exception> {
    apply_one(SwiGlu, &[gate, up], gate.shape(), Dtype::Float32)
}

#[derive(Debug)]
struct SwiGlu;

impl Operation for SwiGlu {
    fn name(&self) -> &'static CStr {
        c"SwiGlu"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let (gate, up) = (inputs[0].contiguous::<f32>(&mut a), inputs[1].contiguous::<f32>(&mut b));
        let (out, isa) = (outputs[0].as_mut_slice::<f32>(), isa());
        let len = out.len();
        let out = Shared(out.as_mut_ptr());
        pool::parallel_ranges(len, CHUNK, len.div_ceil(CHUNK), |from, to| {
            // SAFETY: ranges are disjoint and inside the output.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(from), to - from) };
            forward(isa, &gate[from..to], &up[from..to], out);
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (gate, up) = (&at.primals[0], &at.primals[1]);
        let same = (gate.shape(), Dtype::Float32);
        let gradients = apply(SwiGluGradient, &[gate, up, &at.cotangents[0]], &[same, same])?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

#[derive(Debug)]
struct SwiGluGradient;

impl Operation for SwiGluGradient {
    fn name(&self) -> &'static CStr {
        c"SwiGluGradient"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        let (gate, up) = (inputs[0].contiguous::<f32>(&mut a), inputs[1].contiguous::<f32>(&mut b));
        let dy = inputs[2].contiguous::<f32>(&mut c);
        let [d_gate, d_up] = outputs else { unreachable!("there are two outputs") };
        let (d_gate, d_up, isa) = (d_gate.as_mut_slice::<f32>(), d_up.as_mut_slice::<f32>(), isa());
        let len = dy.len();
        let (d_gate, d_up) = (Shared(d_gate.as_mut_ptr()), Shared(d_up.as_mut_ptr()));
        pool::parallel_ranges(len, CHUNK, len.div_ceil(CHUNK), |from, to| {
            // SAFETY: ranges are disjoint and inside the outputs.
            let part = |all: Shared<f32>| unsafe { std::slice::from_raw_parts_mut(all.get().add(from), to - from) };
            backward(isa, &gate[from..to], &up[from..to], &dy[from..to], part(d_gate), part(d_up));
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a gated activation has no gradient of its own"))
    }
}

multiversion! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
        let (up, gate) = (&up[..out.len()], &gate[..out.len()]);
        for i in 0..out.len() {
            out[i] = gate[i] * math::sigmoid(gate[i]) * up[i];
        }
    }
}

multiversion! {
    fn backward(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        let len = dy.len();
        let (gate, up, d_gate, d_up) = (&gate[..len], &up[..len], &mut d_gate[..len], &mut d_up[..len]);
        for i in 0..len {
            let s = math::sigmoid(gate[i]);
            let silu = gate[i] * s;
            d_gate[i] = dy[i] * up[i] * (s + silu * (1.0 - s));
            d_up[i] = dy[i] * silu;
        }
    }
}
