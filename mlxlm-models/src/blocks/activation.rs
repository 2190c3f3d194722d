//! What stands between the two halves of an MLP.

use mlxlm_core::{Array, fast, ops};

use crate::Result;

/// A function of each element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The tanh approximation of `x * Φ(x)` (arXiv:1606.08415).
    GeluApprox,
}

impl Activation {
    /// `self(gate) * up`.
    ///
    /// # Shapes
    /// - `gate`, `up`: the same, and the same comes back
    pub fn gate(self, gate: &Array, up: &Array) -> Result<Array> {
        match self {
            Self::Silu => Ok(fast::swiglu(gate, up)?),
            Self::GeluApprox => Ok(gelu_approx(gate)?.multiply(up)?),
        }
    }
}

/// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
fn gelu_approx(x: &Array) -> Result<Array> {
    let number = |value: f32| Array::from_f32(value).as_dtype(x.dtype());
    let cubed = x.multiply(x)?.multiply(x)?.multiply(number(0.044_715)?)?;
    let inner = x.add(cubed)?.multiply(number((2.0 / std::f32::consts::PI).sqrt())?)?;
    Ok(x.multiply(number(0.5)?)?.multiply(ops::tanh(&inner)?.add(number(1.0)?)?)?)
}
