//! The MLPs of all experts of a layer, of which each token takes a few.
//!
//! Ports `mlx_lm/models/switch_layers.py` @ 0.32.2. Unusual: from 64 choices on, tokens are sorted by expert, so that
//! each expert's weights are read once.

use mlxlm_core::fast::{self, Activation};
use mlxlm_core::nn::ExpertLinear;
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module, ops};

use crate::{Common, Result};

/// What the parts of the experts are called.
#[derive(Debug, Clone, Copy)]
pub struct ExpertsNames {
    /// What the activation is taken of; unused without a gate.
    pub gate: &'static str,
    /// The way in.
    pub up: &'static str,
    /// The way out.
    pub down: &'static str,
}

impl ExpertsNames {
    /// Gated experts, as the reference's `SwitchGLU` has them.
    pub const GATED: Self = Self { gate: "gate_proj", up: "up_proj", down: "down_proj" };
    /// Plain experts, as the reference's `SwitchMLP` has them.
    pub const PLAIN: Self = Self { gate: "", up: "fc1", down: "fc2" };
}

/// What each expert of a layer is: a gated MLP.
#[derive(Debug, Clone, Copy)]
pub struct ExpertShape {
    /// Dimensions of a state.
    pub dims: i32,
    /// Dimensions between the ways in and out.
    pub width: i32,
    /// What the gate goes through.
    pub activation: Activation,
    /// Whether all maps have biases.
    pub biased: bool,
}

impl ExpertShape {
    /// Experts of this width over the states of the configuration, with the activation that it names, SiLU if it names none,
    /// and without biases.
    pub fn of(c: &Common, width: i32) -> Result<Self> {
        Ok(Self { activation: c.activation(Activation::Silu)?, ..Self::plain(c, width) })
    }

    /// As [`of`](Self::of), with SiLU.
    pub fn plain(c: &Common, width: i32) -> Self {
        Self { dims: c.hidden_size, width, activation: Activation::Silu, biased: false }
    }
}

/// A stack of MLPs.
#[derive(Debug)]
pub struct Experts {
    gate_proj: Option<ExpertLinear>,
    up_proj: ExpertLinear,
    down_proj: ExpertLinear,
    activation: Activation,
    names: ExpertsNames,
}

module!(Experts { gate_proj as names.gate, up_proj as names.up, down_proj as names.down });

/// From this many choices on, sorting by expert pays.
const SORT_FROM: usize = 64;

impl Experts {
    /// `count` gated MLPs at `w`, from `dims` to `width` and back, with biases if `biased`.
    pub fn gated(
        w: &Weights,
        count: i32,
        (dims, width): (i32, i32),
        activation: Activation,
        biased: bool,
    ) -> Result<Self> {
        let names = ExpertsNames::GATED;
        let gate = ExpertLinear::load_biased(&w.at(names.gate).columns(), count, width, dims, biased)?;
        let plain = Self::load(w, names, count, (dims, width), activation, biased)?;
        Ok(Self { gate_proj: Some(gate), ..plain })
    }

    /// `count` MLPs without gates at `w`, from `dims` to `width` and back, with biases if `biased`.
    pub fn plain(w: &Weights, count: i32, sizes: (i32, i32), activation: Activation, biased: bool) -> Result<Self> {
        Self::load(w, ExpertsNames::PLAIN, count, sizes, activation, biased)
    }

    fn load(
        w: &Weights,
        names: ExpertsNames,
        count: i32,
        (dims, width): (i32, i32),
        activation: Activation,
        biased: bool,
    ) -> Result<Self> {
        Ok(Self {
            gate_proj: None,
            up_proj: ExpertLinear::load_biased(&w.at(names.up).columns(), count, width, dims, biased)?,
            down_proj: ExpertLinear::load_biased(&w.at(names.down).rows(), count, dims, width, biased)?,
            activation,
            names,
        })
    }

    /// What the chosen experts answer.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`, `indices`: `[…, chosen]` of `u32`, result: `[…, chosen, D]`
    pub fn forward(&self, x: &Array, indices: &Array) -> Result<Array> {
        let x = x.expand_dims_axes(&[-2, -3])?;
        if indices.size() < SORT_FROM {
            return Ok(self.apply(&x, indices, false)?.squeeze_axes(&[-2])?);
        }
        let chosen = indices.dim(-1);
        let flat = indices.flatten(None, None)?;
        let order = ops::argsort_axis(&flat, 0)?;
        let tokens = order.floor_divide(Array::from_int(chosen).as_dtype(order.dtype())?)?;
        let sorted = x.flatten(0, -3)?.take_axis(&tokens, 0)?;
        let answers = self.apply(&sorted, &flat.take_axis(&order, 0)?, true)?;
        let back = ops::argsort_axis(&order, 0)?;
        let answers = answers.take_axis(&back, 0)?.squeeze_axes(&[-2])?;
        let shape: Vec<i32> = indices.shape().iter().copied().chain([answers.dim(-1)]).collect();
        Ok(answers.reshape(&shape)?)
    }

    fn apply(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        let up = self.up_proj.forward(x, indices, sorted)?;
        let inner = match &self.gate_proj {
            Some(gate) => fast::gated(self.activation, &gate.forward(x, indices, sorted)?, &up)?,
            None => fast::activate(self.activation, &up)?,
        };
        Ok(self.down_proj.forward(&inner, indices, sorted)?)
    }
}
