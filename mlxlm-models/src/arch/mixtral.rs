//! Mixtral: Llama with a mixture of experts in place of the MLP (arXiv:2401.04088).
//!
//! Ports `mlx_lm/models/mixtral.py` @ 0.32.2. Unusual: the softmax is taken over the chosen experts only. Differences:
//! `sliding_window` and `rope_scaling` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mixtral"])
    .defaults(|| json!({"rope_theta": 1e6, "rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2}));

/// What Mixtral adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_local_experts: i32,
    num_experts_per_tok: i32,
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
        Ok(Rule::stack_experts("**.block_sparse_moe.experts.*", "**.block_sparse_moe.switch_mlp", &parts))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.window(c.window(layer, true)?);
        let attention = Attention::load(&w.at("self_attn"), heads)?;
        let names = BlockNames { mlp: "block_sparse_moe", ..BlockNames::PRE };
        let at = w.at(names.mlp);
        let top = Routing::top(self.num_experts_per_tok, Score::SoftmaxOfChosen);
        // The reference packs this router as all else.
        let routing = Routing { precision: Precision::Any, ..top };
        let router = Router::load(&at, MoeNames::QWEN, (c.hidden_size, self.num_local_experts), routing)?;
        let (sizes, act) = ((c.hidden_size, c.intermediate_size()?), c.activation(Activation::Silu)?);
        let experts = Experts::gated(&at.at("switch_mlp"), self.num_local_experts, sizes, act, false)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, attention, Moe::new(MoeNames::QWEN, router, experts))?))
    }
}
