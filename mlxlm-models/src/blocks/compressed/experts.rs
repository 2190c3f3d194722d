//! The mixture of experts: logits in `f32`, and gates and linear parts that are bounded.

use super::Config;
use crate::prelude::*;

/// Experts, and one that every token takes; all answers are added up in `f32`.
#[derive(Debug)]
pub(crate) struct SharedExperts {
    router: Router,
    switch_mlp: Experts,
    shared_experts: Mlp,
    gate_temp: f32,
}

module!(SharedExperts { router as "", switch_mlp as "experts.switch_mlp", shared_experts });

impl SharedExperts {
    pub(crate) fn load(w: &Weights, own: &Config, c: &Common) -> Result<Self> {
        let act = match own.swiglu_limit > 0.0 {
            true => Activation::SwigluLimited { limit: own.swiglu_limit },
            false => Activation::Silu,
        };
        let score = match own.scoring_func.as_str() {
            "sigmoid" => Score::Sigmoid,
            "softmax" => Score::WideSoftmax,
            "sqrtsoftplus" => Score::SqrtSoftplus,
            other => {
                return Err(Error::config(format!(
                    "`scoring_func` is `{other}`, expected `sigmoid`, `softmax` or `sqrtsoftplus`"
                )));
            }
        };
        let routing = Routing {
            corrected: true,
            normalized: own.norm_topk_prob && own.num_experts_per_tok > 1,
            scale: own.routed_scaling_factor,
            precision: Precision::Dense,
            ..Routing::top(own.num_experts_per_tok, score)
        };
        let (count, sizes) = (own.n_routed_experts, (c.hidden_size, own.moe_intermediate_size));
        Ok(Self {
            router: Router::load(w, MoeNames::DEEPSEEK, (c.hidden_size, count), routing)?,
            switch_mlp: Experts::gated(&w.at("experts").at("switch_mlp"), count, sizes, act, false)?,
            shared_experts: Mlp::gated(&w.at("shared_experts"), c.hidden_size, own.moe_intermediate_size, act)?,
            gate_temp: own.gate_temp,
        })
    }
}

impl FeedForward for SharedExperts {
    fn forward(&self, x: &Array) -> Result<Array> {
        let mut wide = x.as_dtype(Dtype::Float32)?;
        if self.gate_temp != 1.0 {
            wide = wide.divide(Array::from_f32(self.gate_temp))?;
        }
        let (indices, shares) = self.router.forward(&wide)?;
        let answers = self.switch_mlp.forward(x, &indices)?.as_dtype(Dtype::Float32)?;
        let routed = answers.multiply(shares.expand_dims(-1)?)?.sum_axis(-2, false)?;
        let shared = self.shared_experts.forward(x)?.as_dtype(Dtype::Float32)?;
        Ok(routed.add(shared)?.as_dtype(x.dtype())?)
    }
}
