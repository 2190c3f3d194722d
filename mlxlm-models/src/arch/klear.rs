//! Klear: Qwen3 with experts chosen by a corrected sigmoid, whose answer each token weighs against that of the shared ones
//! (Klear-46B-A2.5B, Kuaishou, 2025).
//!
//! Ports `mlx_lm/models/Klear.py` @ 0.32.2. Unusual: two shares, of the chosen and of the shared experts, are a softmax over two
//! numbers of the token's own. Differences: `rope_scaling` acts, as in transformers.

use super::qwen3_moe::is_sparse;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["Klear"]);

const NAMES: MoeNames = MoeNames { correction: "expert_bias", experts: "experts", ..MoeNames::DEEPSEEK };

/// What Klear adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    attention_bias: bool,
    mlp_only_layers: Vec<usize>,
    num_experts: i32,
    num_experts_per_tok: i32,
    decoder_sparse_step: i32,
    n_shared_experts: i32,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("decoder_sparse_step", self.decoder_sparse_step, i32::MAX)?;
        if self.num_experts == 0 {
            return Ok(());
        }
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        within("n_shared_experts", self.n_shared_experts, MAX_WIDTH / self.moe_intermediate_size)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.experts", &SAME))
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Frame::untied(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .bias(Bias::all(self.attention_bias))
            .qk_norm(Norm::rms, c.rms_norm_eps()?);
        let (attention, mlp) = (Attention::load(&w.at("self_attn"), heads)?, w.at("mlp"));
        let is_sparse = self.num_experts > 0 && is_sparse(layer, self.decoder_sparse_step, &self.mlp_only_layers);
        Ok(Box::new(match is_sparse {
            true => PreNormBlock::with(w, c, attention, WeighedMoe::load(&mlp, c, self)?)?,
            false => PreNormBlock::with(w, c, attention, Mlp::of(&mlp, c)?)?,
        }))
    }
}

/// Experts, and what a token takes of the chosen and of the shared ones.
#[derive(Debug)]
struct WeighedMoe {
    chosen: Moe,
    shared_experts: Mlp,
    coefficient: Linear,
}

module!(WeighedMoe { chosen as "", shared_experts, coefficient });

impl WeighedMoe {
    fn load(w: &Weights, c: &Common, own: &Config) -> Result<Self> {
        let top = Routing::balanced(own.num_experts_per_tok, None);
        let routing = Routing { normalized: own.norm_topk_prob, ..top };
        let shape = ExpertShape::of(c, own.moe_intermediate_size)?;
        let (dims, width) = (c.hidden_size, shape.width * own.n_shared_experts);
        Ok(Self {
            chosen: Moe::load(w, NAMES, own.num_experts, shape, routing)?,
            shared_experts: Mlp::gated(&w.at(NAMES.shared), dims, width, shape.activation)?,
            coefficient: Linear::load_biased(&w.at("coefficient"), 2, dims, true)?,
        })
    }
}

impl FeedForward for WeighedMoe {
    fn forward(&self, x: &Array) -> Result<Array> {
        let shares = fast::softmax(&self.coefficient.forward(x)?, -1)?;
        let shares = ops::split_equal(shares, 2, -1)?;
        let chosen = self.chosen.routed(x)?.multiply(&shares[0])?;
        Ok(chosen.add(self.shared_experts.forward(x)?.multiply(&shares[1])?)?)
    }
}
