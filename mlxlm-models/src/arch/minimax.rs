//! MiniMax-M2: norms over all heads of queries and of keys, a part of each head rotated, and experts chosen by a corrected
//! sigmoid.
//!
//! Ports `mlx_lm/models/minimax.py` @ 0.32.2. Unusual: the router computes in `f32`. Differences: `rope_scaling` acts, as in
//! transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["minimax", "minimax_m2"]).defaults(|| {
    json!({
        "scoring_func": "sigmoid", "use_qk_norm": true, "qk_norm_type": "per_layer", "use_routing_bias": true,
        "shared_intermediate_size": 0,
    })
});

/// What `MiniMax` adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts_per_tok: i32,
    num_local_experts: i32,
    shared_intermediate_size: i32,
    rotary_dim: i32,
    scoring_func: String,
    use_qk_norm: bool,
    qk_norm_type: String,
    use_routing_bias: bool,
    /// The kind of attention of each layer: 1 is the usual one.
    #[serde(default)]
    attn_type_list: Vec<i32>,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        within("rotary_dim", self.rotary_dim, c.heads()?.dim)?;
        unsupported(c, "shared_intermediate_size", self.shared_intermediate_size != 0)?;
        unsupported(c, "scoring_func", self.scoring_func != "sigmoid")?;
        unsupported(c, "qk_norm_type", self.qk_norm_type != "per_layer")?;
        always_on(c, "use_routing_bias", self.use_routing_bias)?;
        unsupported(c, "attn_type_list", self.attn_type_list.iter().any(|kind| *kind != 1))
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
        Ok(Rule::stack_experts("**.block_sparse_moe.experts.*", "**.block_sparse_moe.switch_mlp", &parts))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::over(c.rope(), self.rotary_dim)?)?;
        let heads = match self.use_qk_norm {
            true => heads.whole_qk_norm(Norm::rms, c.rms_norm_eps()?),
            false => heads,
        };
        let routing = Routing { normalized: true, wide: true, ..Routing::balanced(self.num_experts_per_tok, None) };
        let names = BlockNames { mlp: "block_sparse_moe", ..BlockNames::PRE };
        let parts = MoeNames { correction: "e_score_correction_bias", ..MoeNames::QWEN };
        let shape = ExpertShape::of(c, c.intermediate_size()?)?;
        let moe = Moe::load(&w.at(names.mlp), parts, self.num_local_experts, shape, routing)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, Attention::load(&w.at("self_attn"), heads)?, moe)?))
    }
}
