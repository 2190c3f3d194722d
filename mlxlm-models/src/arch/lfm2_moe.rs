//! LFM2 with experts in place of the MLPs of all but the first layers (arXiv:2511.23404).
//!
//! Ports `mlx_lm/models/lfm2_moe.py` @ 0.32.2. Unusual: shares are sigmoids, and a trained number for each expert counts for the
//! choice only. Differences: as for `lfm2`.

use super::lfm2;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["lfm2_moe"])
    .aliases(&[("norm_eps", "rms_norm_eps")])
    .defaults(|| {
        json!({
            "rope_theta": 1e6, "rms_norm_eps": 1e-5, "conv_bias": false, "conv_L_cache": 3, "routed_scaling_factor": 1.0,
        })
    });

const MOE: MoeNames = MoeNames { correction: "expert_bias", ..MoeNames::QWEN };

/// What LFM2 with experts adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    num_experts: i32,
    num_experts_per_tok: i32,
    norm_topk_prob: bool,
    use_expert_bias: bool,
    num_dense_layers: usize,
    routed_scaling_factor: f32,
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        lfm2::NAMES
    }

    fn check(&self, _c: &Common) -> Result<()> {
        all_within(&[("num_experts", self.num_experts), ("moe_intermediate_size", self.moe_intermediate_size)])
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::depthwise("**.conv.conv.weight")];
        let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
        rules.extend(Rule::stack_experts("**.feed_forward.experts.*", "**.feed_forward.switch_mlp", &parts));
        rules.extend(Rule::stack_experts("**.feed_forward.experts.*", "**.feed_forward.switch_mlp", &SAME));
        rules.extend([
            Rule::Rename("**.feed_forward.w1", "**.feed_forward.gate_proj"),
            Rule::Rename("**.feed_forward.w2", "**.feed_forward.down_proj"),
            Rule::Rename("**.feed_forward.w3", "**.feed_forward.up_proj"),
        ]);
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        lfm2::frame(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (name, mixer) = lfm2::Mixers::load(w, c, layer)?;
        let names = lfm2::block_names(name);
        let at = w.at(names.mlp);
        let mlp: Box<dyn FeedForward> = match layer < self.num_dense_layers {
            true => Box::new(Mlp::of(&at, c)?),
            false => Box::new(SparseMlp::load(&at, c, self)?),
        };
        Ok(Box::new(PreNormBlock::named(w, c, names, mixer, mlp)?))
    }
}

/// Experts whose shares are divided by a little more than their sum.
#[derive(Debug)]
struct SparseMlp {
    router: Router,
    switch_mlp: Experts,
    normalized: bool,
    scale: f32,
}

module!(SparseMlp { router as "", switch_mlp });

impl SparseMlp {
    fn load(w: &Weights, c: &Common, own: &Config) -> Result<Self> {
        let routing =
            Routing { corrected: own.use_expert_bias, ..Routing::top(own.num_experts_per_tok, Score::Sigmoid) };
        let (sizes, act) = ((c.hidden_size, own.moe_intermediate_size), c.activation(Activation::Silu)?);
        Ok(Self {
            router: Router::load(w, MOE, (c.hidden_size, own.num_experts), routing)?,
            switch_mlp: Experts::gated(&w.at("switch_mlp"), own.num_experts, sizes, act, false)?,
            normalized: own.norm_topk_prob,
            scale: own.routed_scaling_factor,
        })
    }
}

impl FeedForward for SparseMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let (indices, mut shares) = self.router.forward(x)?;
        if self.normalized {
            shares = shares.divide(shares.sum_axis(-1, true)?.add(Array::from_f32(1e-6))?)?;
        }
        let shares = shares.multiply(Array::from_f32(self.scale))?;
        add_up(&self.switch_mlp.forward(x, &indices)?, &shares)
    }
}
