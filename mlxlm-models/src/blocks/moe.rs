//! A mixture of experts: a router sends each token to a few MLPs, whose answers are added up (arXiv:1701.06538), and some
//! MLPs answer every token (arXiv:2401.06066).

use mlxlm_core::nn::{Linear, Precision};
use mlxlm_core::weights::Weights;
use mlxlm_core::{Array, module, ops};

use super::{ExpertShape, Experts, FeedForward, Mlp, Router, Routing};
use crate::config::MAX_WIDTH;
use crate::{Error, Result};

/// What the parts of a mixture of experts are called.
#[derive(Debug, Clone, Copy)]
pub struct MoeNames {
    /// The router's map.
    pub gate: &'static str,
    /// What is added to its scores for the choice.
    pub correction: &'static str,
    /// The stack of experts.
    pub experts: &'static str,
    /// What answers every token.
    pub shared: &'static str,
    /// How much of that a token takes.
    pub shared_gate: &'static str,
}

impl MoeNames {
    /// The names of Qwen and most others.
    pub const QWEN: Self = Self {
        gate: "gate",
        correction: "gate.e_score_correction_bias",
        experts: "switch_mlp",
        shared: "shared_expert",
        shared_gate: "shared_expert_gate",
    };
    /// The names of `DeepSeek` and its kin.
    pub const DEEPSEEK: Self = Self { shared: "shared_experts", ..Self::QWEN };
}

/// A router and its experts.
#[derive(Debug)]
pub struct Moe {
    router: Router,
    experts: Experts,
    shared: Option<Box<dyn FeedForward>>,
    shared_gate: Option<Linear>,
    names: MoeNames,
}

module!(Moe {
    router as "",
    experts as names.experts,
    shared as names.shared,
    shared_gate as names.shared_gate,
});

impl Moe {
    /// Experts behind a router, and nothing that every token takes.
    pub fn new(names: MoeNames, router: Router, experts: Experts) -> Self {
        Self { router, experts, shared: None, shared_gate: None, names }
    }

    /// `count` experts of this shape behind a router, at `w`, the layer that has them.
    pub fn load(w: &Weights, names: MoeNames, count: i32, shape: ExpertShape, routing: Routing) -> Result<Self> {
        let ExpertShape { dims, width, activation, biased } = shape;
        let router = Router::load(w, names, (dims, count), routing)?;
        let experts = Experts::gated(&w.at(names.experts), count, (dims, width), activation, biased)?;
        Ok(Self::new(names, router, experts))
    }

    /// With `count` experts of this shape that answer every token, if there are any: one gated MLP, so many times as wide.
    pub fn with_shared(self, w: &Weights, count: i32, shape: ExpertShape) -> Result<Self> {
        if count == 0 {
            return Ok(self);
        }
        let ExpertShape { dims, width, activation, biased } = shape;
        let all = width.checked_mul(count).filter(|all| (1..=MAX_WIDTH).contains(all));
        let Some(all) = all else {
            return Err(Error::config(format!(
                "{count} shared experts {width} wide are no MLP: expected 1 to {MAX_WIDTH} in all"
            )));
        };
        let shared = Mlp::gated_biased(&w.at(self.names.shared), dims, all, activation, biased)?;
        Ok(self.shared(Some(shared)))
    }

    /// With a part that answers every token, loaded from [`MoeNames::shared`], if there is one.
    #[must_use]
    pub fn shared(self, shared: Option<impl FeedForward + 'static>) -> Self {
        Self { shared: shared.map(|shared| Box::new(shared) as Box<dyn FeedForward>), ..self }
    }

    /// With a share of that part for each token: the sigmoid of a map of its state, from the layer's weights `w`.
    pub fn gated(self, w: &Weights, dims: i32) -> Result<Self> {
        let gate = Linear::load(&w.at(self.names.shared_gate).keep(Precision::Eight), 1, dims)?;
        Ok(Self { shared_gate: Some(gate), ..self })
    }
}

impl Moe {
    /// What the chosen experts answer, without what answers every token.
    ///
    /// # Shapes
    /// - `x`: `[…, D]`, and the same comes back
    pub fn routed(&self, x: &Array) -> Result<Array> {
        let (indices, shares) = self.router.forward(x)?;
        add_up(&self.experts.forward(x, &indices)?, &shares)
    }
}

impl FeedForward for Moe {
    fn forward(&self, x: &Array) -> Result<Array> {
        let mut y = self.routed(x)?;
        if let Some(shared) = &self.shared {
            let mut answer = shared.forward(x)?;
            if let Some(gate) = &self.shared_gate {
                answer = answer.multiply(ops::sigmoid(gate.forward(x)?)?)?;
            }
            y = y.add(answer)?;
        }
        Ok(y)
    }
}

/// The sum of what the chosen experts answer, each times its share, in the type of the answers.
///
/// # Shapes
/// - `answers`: `[…, chosen, D]`, `shares`: `[…, chosen]`, result: `[…, D]`
pub fn add_up(answers: &Array, shares: &Array) -> Result<Array> {
    Ok(answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?.as_dtype(answers.dtype())?)
}
