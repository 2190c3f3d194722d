//! Activations in MLX's own operations. They are computed in the type of their arguments, but for those that the reference
//! computes in f32.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, ops};

use super::like;
use crate::fast::Activation;

/// See [`crate::fast::activate`].
#[track_caller]
pub fn activate(activation: Activation, x: &Array) -> Result<Array, Exception> {
    match activation {
        Activation::Silu => x.multiply(ops::sigmoid(x)?),
        Activation::Gelu => {
            let error = ops::erf(x.multiply(like(std::f32::consts::FRAC_1_SQRT_2, x)?)?)?;
            x.multiply(like(0.5, x)?)?.multiply(error.add(like(1.0, x)?)?)
        }
        Activation::GeluApprox => {
            let cubed = x.multiply(x)?.multiply(x)?.multiply(like(0.044_715, x)?)?;
            let inner = x.add(cubed)?.multiply(like((2.0 / std::f32::consts::PI).sqrt(), x)?)?;
            x.multiply(like(0.5, x)?)?.multiply(ops::tanh(&inner)?.add(like(1.0, x)?)?)
        }
        Activation::QuickGelu => x.multiply(ops::sigmoid(x.multiply(like(1.702, x)?)?)?),
        Activation::Relu => ops::maximum(x, like(0.0, x)?),
        Activation::Relu2 => ops::maximum(x, like(0.0, x)?)?.square(),
        Activation::Sigmoid => ops::sigmoid(x),
        Activation::Tanh => ops::tanh(x),
        Activation::Softplus => ops::logaddexp(x, like(0.0, x)?),
        Activation::Identity => Ok(x.clone()),
        Activation::SwigluOai { .. }
        | Activation::SwigluClamped { .. }
        | Activation::SwigluLimited { .. }
        | Activation::Situ { .. } => Err(Exception::custom(format!("{activation:?} is a function of two values"))),
    }
}

/// See [`crate::fast::gated`].
#[track_caller]
pub fn gated(activation: Activation, gate: &Array, up: &Array) -> Result<Array, Exception> {
    match activation {
        Activation::SwigluOai { alpha, limit } => {
            let gate = ops::minimum(gate, like(limit, gate)?)?;
            let inner = gate.multiply(ops::sigmoid(gate.multiply(like(alpha, &gate)?)?)?)?;
            cut(up, limit)?.add(like(1.0, up)?)?.multiply(inner)
        }
        Activation::SwigluClamped { limit } => {
            let gate = activate(Activation::Silu, gate)?;
            ops::minimum(&gate, like(limit, &gate)?)?.multiply(cut(up, limit)?)
        }
        Activation::SwigluLimited { limit } => in_f32(gate, up, |gate, up| {
            let gate = ops::minimum(gate, like(limit, gate)?)?;
            activate(Activation::Silu, &gate)?.multiply(cut(up, limit)?)
        }),
        Activation::Situ { beta, linear_beta } => in_f32(gate, up, |gate, up| {
            let gate = bent(gate, beta)?.multiply(ops::sigmoid(gate)?)?;
            gate.multiply(linear_beta.map_or_else(|| Ok(up.clone()), |beta| bent(up, beta))?)
        }),
        _ => activate(activation, gate)?.multiply(up),
    }
}

/// `x` cut to `±limit`.
fn cut(x: &Array, limit: f32) -> Result<Array, Exception> {
    ops::clip(x, (&like(-limit, x)?, &like(limit, x)?))
}

/// `beta · tanh(x / beta)`.
fn bent(x: &Array, beta: f32) -> Result<Array, Exception> {
    ops::tanh(x.divide(like(beta, x)?)?)?.multiply(like(beta, x)?)
}

/// What a function makes of both in f32, in the type that they meet in.
fn in_f32(
    gate: &Array,
    up: &Array,
    of: impl Fn(&Array, &Array) -> Result<Array, Exception>,
) -> Result<Array, Exception> {
    let dtype = if gate.dtype() == up.dtype() { gate.dtype() } else { Dtype::Float32 };
    of(&gate.as_dtype(Dtype::Float32)?, &up.as_dtype(Dtype::Float32)?)?.as_dtype(dtype)
}
