//! Qwen1.5-MoE and Qwen2-57B: Qwen2 with a mixture of experts and one expert that every token takes a share of
//! (arXiv:2407.10671).
//!
//! Ports `mlx_lm/models/qwen2_moe.py` @ 0.32.2. Unusual: the shares of the chosen experts do not add up to one. Differences:
//! `norm_topk_prob`, `decoder_sparse_step`, `mlp_only_layers`, `rope_scaling` and `use_sliding_window` act, as in transformers.

use super::qwen3_moe::is_sparse;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen2_moe"])
    .defaults(|| json!({"rope_theta": 1e6, "norm_topk_prob": false, "decoder_sparse_step": 1, "mlp_only_layers": []}));

/// What Qwen2 with experts adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    norm_topk_prob: bool,
    decoder_sparse_step: i32,
    mlp_only_layers: Vec<usize>,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let top = Routing::top(self.num_experts_per_tok, Score::Softmax);
        let routing = Routing { normalized: self.norm_topk_prob, from_above: false, ..top };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let shared = ExpertShape { width: self.shared_expert_intermediate_size, ..shape };
        Moe::load(w, MoeNames::QWEN, self.num_experts, shape, routing)?
            .with_shared(w, 1, shared)?
            .gated(w, c.hidden_size)
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        within("decoder_sparse_step", self.decoder_sparse_step, i32::MAX)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME))
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Frame::untied(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.bias(Bias::Qkv);
        let attention = Attention::load(&w.at("self_attn"), heads.window(c.window_above(layer)?))?;
        let mlp = w.at("mlp");
        Ok(Box::new(match is_sparse(layer, self.decoder_sparse_step, &self.mlp_only_layers) {
            true => PreNormBlock::with(w, c, attention, self.moe(&mlp, c)?)?,
            false => PreNormBlock::with(w, c, attention, Mlp::of(&mlp, c)?)?,
        }))
    }
}
