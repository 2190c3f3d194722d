//! A mixture of experts: a router sends each token to a few gated MLPs and adds what they answer
//! (arXiv:1701.06538, arXiv:2401.04088).
//!
//! Ports `mlx_lm/models/switch_layers.py` @ 0.32.2. Unusual: from 64 choices on, tokens are sorted by expert, so that
//! each expert's weights are read once.

use mlxlm_core::nn::{ExpertLinear, Linear};
use mlxlm_core::ops::indexing::TryIndexOp;
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, fast, module, ops};

use super::Activation;
use crate::Result;

/// How scores become choices and their shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// The best scores are chosen, and the softmax is taken over those alone.
    TopThenSoftmax,
    /// The softmax is taken over all scores, and the best are chosen.
    SoftmaxThenTop {
        /// The shares of the chosen are divided by their sum.
        normalized: bool,
    },
}

/// The gated MLPs of all experts.
#[derive(Debug)]
struct SwitchMlp {
    gate_proj: ExpertLinear,
    up_proj: ExpertLinear,
    down_proj: ExpertLinear,
}

module!(SwitchMlp { gate_proj, up_proj, down_proj });

/// A router and its experts.
#[derive(Debug)]
pub struct Moe {
    gate: Linear,
    switch_mlp: SwitchMlp,
    router: Router,
    chosen: i32,
}

module!(Moe { gate, switch_mlp });

/// From this many choices on, sorting by expert pays.
const SORT_FROM: usize = 64;

impl Moe {
    /// `experts` MLPs from `dims` to `hidden`, of which each token takes `chosen`.
    pub fn load(
        w: &Weights,
        (dims, hidden): (i32, i32),
        (experts, chosen): (i32, i32),
        router: Router,
    ) -> Result<Self> {
        let switch = w.at("switch_mlp");
        Ok(Self {
            gate: Linear::load(&w.at("gate"), experts, dims)?,
            switch_mlp: SwitchMlp {
                gate_proj: ExpertLinear::load(&switch.at("gate_proj"), experts, hidden, dims)?,
                up_proj: ExpertLinear::load(&switch.at("up_proj"), experts, hidden, dims)?,
                down_proj: ExpertLinear::load(&switch.at("down_proj"), experts, dims, hidden)?,
            },
            router,
            chosen,
        })
    }

    /// # Shapes
    /// - `x`: `[B, L, D]`, and the same comes back
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let (indices, shares) = self.route(x)?;
        let answers = self.switch_mlp.forward(x, &indices)?;
        Ok(answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?)
    }

    /// The chosen experts and their shares, `[B, L, chosen]` each.
    fn route(&self, x: &Array) -> Result<(Array, Array)> {
        let scores = self.gate.forward(x)?;
        match self.router {
            Router::TopThenSoftmax => {
                let order = ops::argpartition_axis(scores.negative()?, self.chosen - 1, -1)?;
                let indices = mlxlm_core::stop_gradient(order.try_index((.., .., ..self.chosen))?)?;
                let best = scores.take_along_axis(&indices, -1)?;
                Ok((indices, fast::softmax(&best, -1)?))
            }
            Router::SoftmaxThenTop { normalized } => {
                let shares = fast::softmax(&scores, -1)?;
                // Shares of 16 bits are often equal; asking for the same side as the reference chooses the same of them.
                let rest = shares.dim(-1) - self.chosen;
                let order = ops::argpartition_axis(&shares, rest, -1)?;
                let indices = mlxlm_core::stop_gradient(order.try_index((.., .., rest..))?)?;
                let best = shares.take_along_axis(&indices, -1)?;
                let best = if normalized { best.divide(best.sum_axis(-1, true)?)? } else { best };
                Ok((indices, best))
            }
        }
    }
}

impl SwitchMlp {
    /// # Shapes
    /// - `x`: `[B, L, D]`, `indices`: `[B, L, chosen]`, result: `[B, L, chosen, D]`
    fn forward(&self, x: &Array, indices: &Array) -> Result<Array> {
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
        let gate = self.gate_proj.forward(x, indices, sorted)?;
        let up = self.up_proj.forward(x, indices, sorted)?;
        Ok(self.down_proj.forward(&Activation::Silu.gate(&gate, &up)?, indices, sorted)?)
    }
}
