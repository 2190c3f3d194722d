//! Mellum of JetBrains: Qwen3 with experts in every layer, and a rotation for each type of layer.
//!
//! Ports `mlx_lm/models/mellum.py` @ 0.32.2. Unusual: nothing. Differences: a `linear` stretching acts, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mellum"]);

/// What Mellum adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    norm_topk_prob: bool,
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let rope = c.rope().of_type(c.layer_type(layer)?.unwrap_or("full_attention"));
        let heads = Heads::grouped(c, Rope::over(&rope, c.heads()?.dim)?)?
            .qk_norm(Norm::rms, c.rms_norm_eps()?)
            .window(c.window(layer, false)?);
        let top = Routing::top(self.num_experts_per_tok, Score::Softmax);
        let routing = Routing { normalized: self.norm_topk_prob, ..top };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let moe = Moe::load(&w.at("mlp"), MoeNames::QWEN, self.num_experts, shape, routing)?;
        Ok(Box::new(PreNormBlock::with(w, c, Attention::load(&w.at("self_attn"), heads)?, moe)?))
    }
}
