//! `silu(gate) * up` (arXiv:2002.05202) and its gradient.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{isa, math, multiversion, takes};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};

/// Values that a task computes at least.
const CHUNK: usize = 1 << 14;
/// Values that pass through the first-level cache together.
const PIECE: usize = 512;

fn pieces(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    (from..to).step_by(PIECE).map(move |at| (at, (at + PIECE).min(to)))
}

/// `silu(gate) * up` for two floating-point arrays of one shape and type.
#[track_caller]
pub(crate) fn swiglu(gate: &Array, up: &Array) -> Result<Option<Array>, Exception> {
    if !takes([gate, up]) || gate.shape() != up.shape() {
        return Ok(None);
    }
    apply_one(SwiGlu, &[gate, up], gate.shape(), gate.dtype()).map(Some)
}

#[derive(Debug)]
struct SwiGlu;

impl Operation for SwiGlu {
    fn name(&self) -> &'static CStr {
        c"SwiGlu"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Copies::default(), Copies::default());
        let (gate, up) = (Values::new(&inputs[0], &mut a), Values::new(&inputs[1], &mut b));
        let (out, isa) = (Results::new(&mut outputs[0]), isa());
        pool::parallel_ranges(gate.len(), CHUNK, gate.len().div_ceil(CHUNK), |from, to| {
            let mut room = [[0.0; PIECE]; 3];
            for (from, to) in pieces(from, to) {
                let [a, b, c] = &mut room;
                let (gate, up) = (gate.part(isa, from, to, a), up.part(isa, from, to, b));
                // SAFETY: ranges are disjoint.
                unsafe { out.part(isa, from, to, c, |out| forward(isa, gate, up, out)) };
            }
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (gate, up) = (&at.primals[0], &at.primals[1]);
        let same = (gate.shape(), gate.dtype());
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
        let (mut a, mut b, mut c) = (Copies::default(), Copies::default(), Copies::default());
        let (gate, up) = (Values::new(&inputs[0], &mut a), Values::new(&inputs[1], &mut b));
        let dy = Values::new(&inputs[2], &mut c);
        let [d_gate, d_up] = outputs else { unreachable!("there are two outputs") };
        let (d_gate, d_up, isa) = (Results::new(d_gate), Results::new(d_up), isa());
        pool::parallel_ranges(dy.len(), CHUNK, dy.len().div_ceil(CHUNK), |from, to| {
            let mut room = [[0.0; PIECE]; 5];
            for (from, to) in pieces(from, to) {
                let [a, b, c, d, e] = &mut room;
                let (gate, up) = (gate.part(isa, from, to, a), up.part(isa, from, to, b));
                let dy = dy.part(isa, from, to, c);
                // SAFETY: ranges are disjoint.
                unsafe {
                    d_gate.part(isa, from, to, d, |d_gate| {
                        d_up.part(isa, from, to, e, |d_up| backward(isa, gate, up, dy, d_gate, d_up));
                    });
                }
            }
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
