//! Gated activations, `f(gate) * up`, and their gradients.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{isa, math, multiversion, takes};
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::mixed;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};

/// Values that a task computes at least.
const CHUNK: usize = 1 << 14;
/// Values that pass through the first-level cache together.
const PIECE: usize = 512;

fn pieces(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    (from..to).step_by(PIECE).map(move |at| (at, (at + PIECE).min(to)))
}

/// What is done to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x · sigmoid(x)` (arXiv:1702.03118).
    Silu,
    /// `x · Φ(x)` (arXiv:1606.08415).
    Gelu,
    /// The approximation `x · sigmoid(2 √(2/π) (x + 0.044715 x³))`, which the same paper writes as a tanh.
    GeluApprox,
}

/// `activation(gate) * up` for two floating-point arrays of one shape.
#[track_caller]
pub(crate) fn gated(activation: Activation, gate: &Array, up: &Array) -> Result<Option<Array>, Exception> {
    if let Some(wide) = mixed::widened(&[gate, up])? {
        return gated(activation, &wide[0], &wide[1]);
    }
    if !takes([gate, up]) || gate.shape() != up.shape() {
        return Ok(None);
    }
    apply_one(Gated(activation), &[gate, up], gate.shape(), gate.dtype()).map(Some)
}

#[derive(Debug)]
struct Gated(Activation);

impl Operation for Gated {
    fn name(&self) -> &'static CStr {
        c"Gated"
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
                unsafe { out.part(isa, from, to, c, |out| forward(isa, self.0, gate, up, out)) };
            }
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let (gate, up) = (&at.primals[0], &at.primals[1]);
        let same = (gate.shape(), gate.dtype());
        let gradients = apply(GatedGradient(self.0), &[gate, up, &at.cotangents[0]], &[same, same])?;
        Ok(at.argnums.iter().map(|&i| gradients[i].clone()).collect())
    }
}

#[derive(Debug)]
struct GatedGradient(Activation);

impl Operation for GatedGradient {
    fn name(&self) -> &'static CStr {
        c"GatedGradient"
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
                        d_up.part(isa, from, to, e, |d_up| backward(isa, self.0, gate, up, dy, d_gate, d_up));
                    });
                }
            }
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of a gated activation has no gradient of its own"))
    }
}

/// An activation and its slope at `x`.
type Both = (f32, f32);

#[inline(always)]
fn silu(x: f32) -> Both {
    let s = math::sigmoid(x);
    (x * s, s + x * s * (1.0 - s))
}

#[inline(always)]
fn gelu(x: f32) -> Both {
    /// `1 / √(2π)`.
    const DENSITY: f32 = 0.398_942_3;
    let share = math::normal_share(x);
    (x * share, share + x * DENSITY * math::exp(-0.5 * x * x))
}

#[inline(always)]
fn gelu_approx(x: f32) -> Both {
    /// `2 √(2/π)`.
    const FACTOR: f32 = 1.595_769;
    const CUBE: f32 = 0.044_715;
    let s = math::sigmoid(FACTOR * (x + CUBE * x * x * x));
    (x * s, s + x * s * (1.0 - s) * FACTOR * (1.0 + 3.0 * CUBE * x * x))
}

multiversion! {
    fn forward(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        #[inline(always)]
        fn each(gate: &[f32], up: &[f32], out: &mut [f32], f: impl Fn(f32) -> Both) {
            let (up, gate) = (&up[..out.len()], &gate[..out.len()]);
            for i in 0..out.len() {
                out[i] = f(gate[i]).0 * up[i];
            }
        }
        match activation {
            Activation::Silu => each(gate, up, out, silu),
            Activation::Gelu => each(gate, up, out, gelu),
            Activation::GeluApprox => each(gate, up, out, gelu_approx),
        }
    }
}

multiversion! {
    fn backward(
        activation: Activation, gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32],
    ) {
        #[inline(always)]
        fn each(
            gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32], f: impl Fn(f32) -> Both,
        ) {
            let len = dy.len();
            let (gate, up, d_gate, d_up) = (&gate[..len], &up[..len], &mut d_gate[..len], &mut d_up[..len]);
            for i in 0..len {
                let (value, slope) = f(gate[i]);
                d_gate[i] = dy[i] * up[i] * slope;
                d_up[i] = dy[i] * value;
            }
        }
        match activation {
            Activation::Silu => each(gate, up, dy, d_gate, d_up, silu),
            Activation::Gelu => each(gate, up, dy, d_gate, d_up, gelu),
            Activation::GeluApprox => each(gate, up, dy, d_gate, d_up, gelu_approx),
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
        fn every_level_gives_the_same_bits(x in numbers(0..600)) {
            for activation in [Activation::Silu, Activation::Gelu, Activation::GeluApprox] {
                each_level(2 * x.len(), |isa, out| {
                    let (d_gate, d_up) = out.split_at_mut(x.len());
                    backward(isa, activation, &x, &x, &x, d_gate, d_up);
                    forward(isa, activation, &x, &x, d_gate);
                })?;
            }
        }
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        for f in [silu, gelu, gelu_approx] {
            for i in -600..=600_i16 {
                let (x, step) = (f32::from(i) / 100.0, 1.0 / 64.0);
                let difference = (f(x + step).0 - f(x - step).0) / (2.0 * step);
                assert!((difference - f(x).1).abs() < 3e-4, "{x}: {difference} is not {}", f(x).1);
            }
        }
    }
}
