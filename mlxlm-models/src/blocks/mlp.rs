//! MLPs: gated, `down(act(gate(x)) * up(x))` (arXiv:2002.05202), and plain, `down(act(up(x)))`.

use std::fmt::Debug;

use mlxlm_core::fast::{self, Activation};
use mlxlm_core::nn::{Linear, Module, Precision};
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module, ops};

use crate::{Common, Result};

/// What follows attention in a block: a function of each token's state.
pub trait FeedForward: Module + Debug {
    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    fn forward(&self, x: &Array) -> Result<Array>;
}

impl<M: FeedForward + ?Sized> FeedForward for Box<M> {
    fn forward(&self, x: &Array) -> Result<Array> {
        (**self).forward(x)
    }
}

/// What the parts of an MLP are called.
#[derive(Debug, Clone, Copy)]
pub struct MlpNames {
    /// What the activation is taken of, in a gated MLP.
    pub gate: &'static str,
    /// The other half of a gated MLP, or the way in of a plain one, or both halves in one.
    pub up: &'static str,
    /// The way out.
    pub down: &'static str,
}

impl MlpNames {
    /// The names of Llama and most others.
    pub const LLAMA: Self = Self { gate: "gate_proj", up: "up_proj", down: "down_proj" };
    /// The names of Phi-3 and others whose two ways in are one.
    pub const FUSED: Self = Self { up: "gate_up_proj", ..Self::LLAMA };
}

/// How the inner values come out of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gated,
    /// One projection for gate and up, gate first.
    Fused,
    Plain,
}

/// An MLP.
#[derive(Debug)]
pub struct Mlp {
    gate_proj: Option<Linear>,
    up_proj: Linear,
    down_proj: Linear,
    kind: Kind,
    activation: Activation,
    names: MlpNames,
}

module!(Mlp { gate_proj as names.gate, up_proj as names.up, down_proj as names.down });

impl Mlp {
    /// The gated MLP of the configuration: `intermediate_size` wide, with the activation that it names, `SiLU` if it names none.
    pub fn of(w: &Weights, c: &Common) -> Result<Self> {
        Self::gated(w, c.hidden_size, c.intermediate_size()?, c.activation(Activation::Silu)?)
    }

    /// A gated MLP without biases, from `dims` to `width` and back.
    pub fn gated(w: &Weights, dims: i32, width: i32, activation: Activation) -> Result<Self> {
        Self::named(w, MlpNames::LLAMA, dims, width, activation, false)
    }

    /// As [`gated`](Self::gated), with biases if `biased`.
    pub fn gated_biased(w: &Weights, dims: i32, width: i32, activation: Activation, biased: bool) -> Result<Self> {
        Self::named(w, MlpNames::LLAMA, dims, width, activation, biased)
    }

    /// As [`gated`](Self::gated), with other names, and with biases if `biased`.
    pub fn named(
        w: &Weights,
        names: MlpNames,
        dims: i32,
        width: i32,
        activation: Activation,
        biased: bool,
    ) -> Result<Self> {
        let gate = Linear::load_biased(&w.at(names.gate).columns(), width, dims, biased)?;
        Ok(Self { gate_proj: Some(gate), kind: Kind::Gated, ..Self::plain(w, names, dims, width, activation, biased)? })
    }

    /// A gated MLP without biases whose two ways in are one projection, gate first.
    pub fn fused(w: &Weights, names: MlpNames, dims: i32, width: i32, activation: Activation) -> Result<Self> {
        let up_proj = Linear::load(&w.at(names.up).columns_of(&[width, width]), 2 * width, dims)?;
        let down_proj = Linear::load(&w.at(names.down).rows(), dims, width)?;
        Ok(Self { gate_proj: None, up_proj, down_proj, kind: Kind::Fused, activation, names })
    }

    /// An MLP without a gate, from `dims` to `width` and back, with biases if `biased`.
    pub fn plain(
        w: &Weights,
        names: MlpNames,
        dims: i32,
        width: i32,
        activation: Activation,
        biased: bool,
    ) -> Result<Self> {
        let up_proj = Linear::load_biased(&w.at(names.up).columns(), width, dims, biased)?;
        let down_proj = Linear::load_biased(&w.at(names.down).rows(), dims, width, biased)?;
        Ok(Self { gate_proj: None, up_proj, down_proj, kind: Kind::Plain, activation, names })
    }

    /// With a way out that is packed no further than this.
    #[must_use]
    pub fn keep_down(mut self, precision: Precision) -> Self {
        self.down_proj.worth.precision = precision;
        self
    }
}

impl FeedForward for Mlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let inner = match (&self.gate_proj, self.kind) {
            (Some(gate), _) => {
                let [gate, up] = Linear::forward_all([gate, &self.up_proj], x)?;
                fast::gated(self.activation, &gate, &up)?
            }
            (None, Kind::Fused) => {
                let halves = ops::split_equal(self.up_proj.forward(x)?, 2, -1)?;
                fast::gated(self.activation, &halves[0], &halves[1])?
            }
            (None, _) => fast::activate(self.activation, &self.up_proj.forward(x)?)?,
        };
        Ok(self.down_proj.forward(&inner)?)
    }
}
