//! dots.llm1: experts chosen by a corrected sigmoid, and norms over each head of queries and keys (arXiv:2506.05767).
//!
//! Ports `mlx_lm/models/dots1.py` @ 0.32.2. Unusual: attention has biases where the checkpoint has them, whatever
//! `attention_bias` says, and `mlp_bias` means the dense MLPs and the shared experts only. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture =
    Architecture::decoder::<Config>(&["dots1"]).defaults(|| json!({"n_group": 1, "topk_group": 1}));

/// What dots.llm1 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    first_k_dense_replace: usize,
    moe_intermediate_size: i32,
    n_routed_experts: i32,
    n_shared_experts: i32,
    norm_topk_prob: bool,
    num_experts_per_tok: i32,
    routed_scaling_factor: f32,
    scoring_func: Option<String>,
    n_group: i32,
    topk_group: i32,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        const NAMES: MoeNames = MoeNames { experts: "experts", ..MoeNames::DEEPSEEK };
        let routing = Routing {
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor,
            precision: Precision::Dense,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let shared = ExpertShape { biased: self.mlp_bias, ..shape };
        Moe::load(w, NAMES, self.n_routed_experts, shape, routing)?.with_shared(w, self.n_shared_experts, shared)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("n_routed_experts", self.n_routed_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        let known = matches!(self.scoring_func.as_deref(), None | Some("noaux_tc" | "sigmoid"));
        unsupported(c, "scoring_func", !known)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.experts", &SAME))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let at = w.at("self_attn");
        let biased = |name: &str| self.attention_bias && at.at(name).has("bias");
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .bias(Bias::of(biased("q_proj"), biased("o_proj")))
            .qk_norm(Norm::rms, c.rms_norm_eps()?);
        let attention = Attention::load(&at, heads)?;
        if layer >= self.first_k_dense_replace {
            return Ok(Box::new(PreNormBlock::with(w, c, attention, self.moe(&w.at("mlp"), c)?)?));
        }
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&w.at("mlp"), c.hidden_size, c.intermediate_size()?, act, self.mlp_bias)?;
        Ok(Box::new(PreNormBlock::with(w, c, attention, mlp)?))
    }
}
