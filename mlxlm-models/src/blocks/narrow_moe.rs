//! Experts that see states through a narrow width (Kimi K3).

use crate::prelude::*;

/// Experts that see states through a narrow width, which a norm may end, and MLPs that every token takes.
#[derive(Debug)]
pub(crate) struct NarrowMoe {
    pub(crate) router: Router,
    pub(crate) down: Linear,
    pub(crate) experts: Experts,
    pub(crate) norm: Option<Norm>,
    pub(crate) up: Linear,
    pub(crate) shared: Option<Mlp>,
}

module!(NarrowMoe {
    router as "",
    down as "routed_expert_down_proj",
    experts as "switch_mlp",
    norm as "routed_expert_norm",
    up as "routed_expert_up_proj",
    shared as "shared_experts",
});

impl FeedForward for NarrowMoe {
    fn forward(&self, x: &Array) -> Result<Array> {
        let (indices, shares) = self.router.forward(x)?;
        let answers = self.experts.forward(&self.down.forward(x)?, &indices)?;
        let mut y = answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?.as_dtype(x.dtype())?;
        if let Some(norm) = &self.norm {
            y = norm.forward(&y)?;
        }
        y = self.up.forward(&y)?;
        match &self.shared {
            Some(shared) => Ok(y.add(shared.forward(x)?)?),
            None => Ok(y),
        }
    }
}
