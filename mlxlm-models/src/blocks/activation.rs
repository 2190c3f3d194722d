//! What stands between the two halves of an MLP.

use mlxlm_core::{Array, fast};

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
            Self::GeluApprox => Ok(fast::geglu_approx(gate, up)?),
        }
    }
}
