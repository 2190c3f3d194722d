//! Activations of one value, `f(x)`, and of a gate and a linear part, mostly `f(gate) * up`; and their gradients.
//!
//! Unusual: a function of one value is that of a gate beside ones.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{isa, math, multiversion, takes};
use crate::fast::Activation;
use crate::kernels::convert::{Copies, Results, Values};
use crate::kernels::isa::Isa;
use crate::kernels::mixed;
use crate::kernels::pool;
use crate::kernels::primitive::{Gradient, Operation, View, ViewMut, apply, apply_one};

/// Values that a task computes at least.
const CHUNK: usize = 1 << 14;
/// Values that pass through the first-level cache together.
pub(super) const PIECE: usize = 512;
/// What stands beside a gate that is alone.
pub(super) const ONES: [f32; PIECE] = [1.0; PIECE];

fn pieces(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    (from..to).step_by(PIECE).map(move |at| (at, (at + PIECE).min(to)))
}

/// `activation(x)` for a floating-point array.
#[track_caller]
pub(crate) fn activated(activation: Activation, x: &Array) -> Result<Option<Array>, Exception> {
    if activation.is_pair() || !takes([x]) {
        return Ok(None);
    }
    apply_one(Gated(activation), &[x], x.shape(), x.dtype()).map(Some)
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

/// The function of all values, of a gate alone if there is one input.
#[derive(Debug)]
struct Gated(Activation);

impl Operation for Gated {
    fn name(&self) -> &'static CStr {
        c"Gated"
    }

    fn run(&self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>]) {
        let (mut a, mut b) = (Copies::default(), Copies::default());
        let gate = Values::new(&inputs[0], &mut a);
        let up = inputs.get(1).map(|up| Values::new(up, &mut b));
        let (out, isa) = (Results::new(&mut outputs[0]), isa());
        pool::parallel_ranges(gate.len(), CHUNK, gate.len().div_ceil(CHUNK), |from, to| {
            let mut room = [[0.0; PIECE]; 3];
            for (from, to) in pieces(from, to) {
                let [a, b, c] = &mut room;
                let gate = gate.part(isa, from, to, a);
                let up = up.map_or(&ONES[..to - from], |up| up.part(isa, from, to, b));
                // SAFETY: ranges are disjoint.
                unsafe { out.part(isa, from, to, c, |out| forward(isa, self.0, gate, up, out)) };
            }
        });
    }

    fn vjp(&self, at: &Gradient) -> Result<Vec<Array>, Exception> {
        let inputs: Vec<&Array> = at.primals.iter().chain(&at.cotangents).collect();
        let same = (at.primals[0].shape(), at.primals[0].dtype());
        let gradients = apply(GatedGradient(self.0), &inputs, &vec![same; at.primals.len()])?;
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
        let (Some((dy, [gate, up @ ..])), Some((d_gate, d_up))) = (inputs.split_last(), outputs.split_first_mut())
        else {
            unreachable!("there is a gate and its gradient")
        };
        let (gate, dy) = (Values::new(gate, &mut a), Values::new(dy, &mut c));
        let up = up.first().map(|up| Values::new(up, &mut b));
        let (d_gate, d_up, isa) = (Results::new(d_gate), d_up.first_mut().map(Results::new), isa());
        pool::parallel_ranges(dy.len(), CHUNK, dy.len().div_ceil(CHUNK), |from, to| {
            let mut room = [[0.0; PIECE]; 5];
            for (from, to) in pieces(from, to) {
                let [a, b, c, d, e] = &mut room;
                let (gate, dy) = (gate.part(isa, from, to, a), dy.part(isa, from, to, c));
                let up = up.map_or(&ONES[..to - from], |up| up.part(isa, from, to, b));
                let fill = |d_gate: &mut [f32], d_up: &mut [f32]| {
                    backward(isa, self.0, gate, up, dy, d_gate, d_up);
                };
                // SAFETY: ranges are disjoint.
                unsafe {
                    d_gate.part(isa, from, to, d, |d_gate| match d_up {
                        Some(d_up) => d_up.part(isa, from, to, e, |d_up| fill(d_gate, d_up)),
                        None => fill(d_gate, &mut e[..to - from]),
                    });
                }
            }
        });
    }

    fn vjp(&self, _: &Gradient) -> Result<Vec<Array>, Exception> {
        Err(Exception::custom("the gradient of an activation has no gradient of its own"))
    }
}

/// A function of one value and its slope.
type Both = (f32, f32);
/// A function of a gate and a linear part, and its slope in each.
type Three = (f32, f32, f32);

/// `f(gate) * up`.
#[inline(always)]
fn times((value, slope): Both, up: f32) -> Three {
    (value * up, slope * up, value)
}

#[inline(always)]
fn silu(x: f32) -> Both {
    swish(1.0, x)
}

/// `x · sigmoid(factor x)`.
#[inline(always)]
fn swish(factor: f32, x: f32) -> Both {
    let s = math::sigmoid(factor * x);
    (x * s, s + factor * x * s * (1.0 - s))
}

#[inline(always)]
fn gelu(x: f32) -> Both {
    /// `1 / √(2π)`.
    const DENSITY: f32 = 0.398_942_3;
    let share = math::normal_share(x);
    (x * share, share + x * DENSITY * math::exp(-0.5 * x * x))
}

/// `x · sigmoid(2 √(2/π) (x + 0.044715 x³))`, which the paper writes as a tanh.
#[inline(always)]
fn gelu_approx(x: f32) -> Both {
    /// `2 √(2/π)`.
    const FACTOR: f32 = 1.595_769;
    const CUBE: f32 = 0.044_715;
    let s = math::sigmoid(FACTOR * (x + CUBE * x * x * x));
    (x * s, s + x * s * (1.0 - s) * FACTOR * (1.0 + 3.0 * CUBE * x * x))
}

#[inline(always)]
fn quick_gelu(x: f32) -> Both {
    swish(1.702, x)
}

#[inline(always)]
fn relu(x: f32) -> Both {
    if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) }
}

#[inline(always)]
fn relu2(x: f32) -> Both {
    let x = relu(x).0;
    (x * x, 2.0 * x)
}

#[inline(always)]
fn sigmoid(x: f32) -> Both {
    let s = math::sigmoid(x);
    (s, s * (1.0 - s))
}

#[inline(always)]
fn tanh(x: f32) -> Both {
    let y = math::tanh(x);
    (y, 1.0 - y * y)
}

#[inline(always)]
fn softplus(x: f32) -> Both {
    (math::softplus(x), math::sigmoid(x))
}

#[inline(always)]
fn identity(x: f32) -> Both {
    (x, 1.0)
}

/// `min(x, limit)`, not a number where `x` is none.
#[inline(always)]
fn below(limit: f32, x: f32) -> Both {
    if x > limit { (limit, 0.0) } else { (x, 1.0) }
}

/// `x` cut to `±limit`, not a number where `x` is none.
#[inline(always)]
fn cut(limit: f32, x: f32) -> Both {
    let (y, slope) = below(limit, x);
    if y < -limit { (-limit, 0.0) } else { (y, slope) }
}

/// `beta · tanh(x / beta)`.
#[inline(always)]
fn bent(beta: f32, x: f32) -> Both {
    let (y, slope) = tanh(x / beta);
    (beta * y, slope)
}

#[inline(always)]
fn swiglu_oai([alpha, limit]: [f32; 2], gate: f32, up: f32) -> Three {
    let ((gate, of_gate), (up, of_up)) = (below(limit, gate), cut(limit, up));
    let (value, slope, of_linear) = times(swish(alpha, gate), up + 1.0);
    (value, slope * of_gate, of_linear * of_up)
}

#[inline(always)]
fn swiglu_clamped(limit: f32, gate: f32, up: f32) -> Three {
    let ((gate, of_gate), (up, of_up)) = (silu(gate), cut(limit, up));
    let (gate, of_limit) = below(limit, gate);
    (gate * up, of_limit * of_gate * up, gate * of_up)
}

#[inline(always)]
fn swiglu_limited(limit: f32, gate: f32, up: f32) -> Three {
    let ((gate, of_gate), (up, of_up)) = (below(limit, gate), cut(limit, up));
    let (value, slope, of_linear) = times(silu(gate), up);
    (value, slope * of_gate, of_linear * of_up)
}

/// Without a `linear` the linear part stays as it is.
#[inline(always)]
fn situ(beta: f32, linear: Option<f32>, gate: f32, up: f32) -> Three {
    let (up, of_up) = linear.map_or((up, 1.0), |beta| bent(beta, up));
    let ((b, of_b), (s, of_s)) = (bent(beta, gate), sigmoid(gate));
    (b * s * up, (of_b * s + b * of_s) * up, b * s * of_up)
}

/// `$body` with the function that an activation is as `$f`, once for each of them, so that each is compiled into it.
macro_rules! with_function {
    ($activation:expr, $f:ident => $body:expr) => {
        with_function!($activation, $f => $body,
            [Silu silu, Gelu gelu, GeluApprox gelu_approx, QuickGelu quick_gelu, Relu relu, Relu2 relu2,
            Sigmoid sigmoid, Tanh tanh, Softplus softplus, Identity identity])
    };
    ($activation:expr, $f:ident => $body:expr, [$($name:ident $of_one:ident),*]) => {
        match $activation {
            $(Activation::$name => {
                let $f = |gate: f32, up: f32| times($of_one(gate), up);
                $body
            })*
            Activation::SwigluOai { alpha, limit } => {
                let $f = |gate: f32, up: f32| swiglu_oai([alpha, limit], gate, up);
                $body
            }
            Activation::SwigluClamped { limit } => {
                let $f = |gate: f32, up: f32| swiglu_clamped(limit, gate, up);
                $body
            }
            Activation::SwigluLimited { limit } => {
                let $f = |gate: f32, up: f32| swiglu_limited(limit, gate, up);
                $body
            }
            Activation::Situ { beta, linear_beta: None } => {
                let $f = |gate: f32, up: f32| situ(beta, None, gate, up);
                $body
            }
            Activation::Situ { beta, linear_beta: Some(linear) } => {
                let $f = |gate: f32, up: f32| situ(beta, Some(linear), gate, up);
                $body
            }
        }
    };
}

multiversion! {
    fn forward(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        let (up, gate) = (&up[..out.len()], &gate[..out.len()]);
        with_function!(activation, f => {
            for i in 0..out.len() {
                out[i] = f(gate[i], up[i]).0;
            }
        });
    }
}

multiversion! {
    fn backward(
        activation: Activation, gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32],
    ) {
        let len = dy.len();
        let (gate, up, d_gate, d_up) = (&gate[..len], &up[..len], &mut d_gate[..len], &mut d_up[..len]);
        with_function!(activation, f => {
            for i in 0..len {
                let (_, of_gate, of_up) = f(gate[i], up[i]);
                d_gate[i] = dy[i] * of_gate;
                d_up[i] = dy[i] * of_up;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{each_level, numbers};
    use super::*;
    use crate::fast::testing::ACTIVATIONS;

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits(x in numbers(0..600)) {
            for activation in ACTIVATIONS {
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
        for f in [silu, gelu, gelu_approx, quick_gelu, sigmoid, tanh, softplus, identity] {
            for i in -600..=600_i16 {
                let (x, step) = (f32::from(i) / 100.0, 1.0 / 64.0);
                let difference = (f(x + step).0 - f(x - step).0) / (2.0 * step);
                assert!((difference - f(x).1).abs() < 3e-4, "{x}: {difference} is not {}", f(x).1);
            }
        }
    }
}
