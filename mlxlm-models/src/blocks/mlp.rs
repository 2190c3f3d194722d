//! The gated MLP: `down(act(gate(x)) * up(x))` (arXiv:2002.05202).

use mlxlm_core::nn::{Leaf, Linear, Module, join};
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, ops};

use super::Activation;
use crate::Result;

/// How gate and up come out of the input.
#[derive(Debug)]
enum GateUp {
    Split {
        gate_proj: Linear,
        up_proj: Linear,
    },
    /// One projection for both, gate first.
    Fused {
        gate_up_proj: Linear,
    },
}

/// A gated MLP.
#[derive(Debug)]
pub struct Mlp {
    gate_up: GateUp,
    down_proj: Linear,
    activation: Activation,
}

impl Mlp {
    /// `gate_proj`, `up_proj`, `down_proj`, from `dims` to `hidden` and back.
    pub fn gated(w: &Weights, dims: i32, hidden: i32, activation: Activation, biased: bool) -> Result<Self> {
        Ok(Self {
            gate_up: GateUp::Split {
                gate_proj: Linear::load_biased(&w.at("gate_proj"), hidden, dims, biased)?,
                up_proj: Linear::load_biased(&w.at("up_proj"), hidden, dims, biased)?,
            },
            down_proj: Linear::load_biased(&w.at("down_proj"), dims, hidden, biased)?,
            activation,
        })
    }

    /// As [`Self::gated`] without biases, with gate and up in one projection `gate_up_proj`.
    pub fn fused(w: &Weights, dims: i32, hidden: i32, activation: Activation) -> Result<Self> {
        Ok(Self {
            gate_up: GateUp::Fused { gate_up_proj: Linear::load(&w.at("gate_up_proj"), 2 * hidden, dims)? },
            down_proj: Linear::load(&w.at("down_proj"), dims, hidden)?,
            activation,
        })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let inner = match &self.gate_up {
            GateUp::Split { gate_proj, up_proj } => {
                let [gate, up] = Linear::forward_all([gate_proj, up_proj], x)?;
                self.activation.gate(&gate, &up)?
            }
            GateUp::Fused { gate_up_proj } => {
                let halves = ops::split_equal(gate_up_proj.forward(x)?, 2, -1)?;
                self.activation.gate(&halves[0], &halves[1])?
            }
        };
        Ok(self.down_proj.forward(&inner)?)
    }
}

impl Module for Mlp {
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        match &mut self.gate_up {
            GateUp::Split { gate_proj, up_proj } => {
                gate_proj.walk(&join(path, "gate_proj"), visit);
                up_proj.walk(&join(path, "up_proj"), visit);
            }
            GateUp::Fused { gate_up_proj } => gate_up_proj.walk(&join(path, "gate_up_proj"), visit),
        }
        self.down_proj.walk(&join(path, "down_proj"), visit);
    }
}
