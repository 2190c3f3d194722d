//! Ring Linear of inclusionAI: linear attention whose heads forget at fixed speeds, full attention at the end of each group of
//! layers, and experts (arXiv:2510.19338).
//!
//! Ports `mlx_lm/models/bailing_moe_linear.py` @ 0.32.2. Unusual: the positions of linear layers are counted by the caches of the
//! full ones; the head may be normed as it is loaded. `use_rmsnorm`, `norm_softmax` and `moe_router_enable_routed_scaling` change
//! nothing, as in the reference. Differences: padding leaves the state of linear layers as it is, and their sums are in f32.

use serde_json::Value;

use super::bailing_moe::{ATTENTION, EXPERTS, norm_head};
use crate::blocks::lightning::{Lightning, LightningShape};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["bailing_moe_linear"]).defaults(|| {
    json!({
        "routed_scaling_factor": 1.0, "score_function": "softmax", "n_group": 1, "topk_group": 4,
        "moe_router_enable_shared_expert": true,
    })
});

/// What Ring Linear adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    num_experts: Option<i32>,
    num_shared_experts: i32,
    num_experts_per_tok: i32,
    norm_topk_prob: bool,
    first_k_dense_replace: usize,
    layer_group_size: usize,
    group_norm_size: i32,
    #[serde(default)]
    use_bias: bool,
    #[serde(default)]
    use_qkv_bias: bool,
    #[serde(default)]
    norm_head: bool,
    #[serde(default)]
    use_qk_norm: bool,
    #[serde(default)]
    moe_router_enable_expert_bias: bool,
    moe_router_enable_shared_expert: bool,
    routed_scaling_factor: f32,
    score_function: String,
    n_group: i32,
    topk_group: i32,
    moe_shared_expert_intermediate_size: Option<i32>,
    /// These change nothing.
    #[serde(rename = "norm_softmax")]
    _norm_softmax: Option<Value>,
    #[serde(rename = "use_rmsnorm")]
    _use_rmsnorm: Option<Value>,
    #[serde(rename = "moe_router_enable_routed_scaling")]
    _moe_router_enable_routed_scaling: Option<Value>,
}

/// The names of a block's parts.
pub(super) const BLOCK: BlockNames = BlockNames { mixer: "attention", ..BlockNames::PRE };

/// Whether a layer attends to everything: the last of each group, and those that are left over at the end.
pub(super) fn is_full(layer: usize, group: usize, layers: usize) -> bool {
    let group = group.max(1);
    (layer + 1) % group == 0 || layer >= layers / group * group
}

impl Config {
    fn is_full(&self, c: &Common, layer: usize) -> bool {
        is_full(layer, self.layer_group_size, c.num_hidden_layers as usize)
    }

    fn moe(&self, w: &Weights, c: &Common, experts: i32) -> Result<Moe> {
        let routing = Routing {
            score: if self.score_function == "sigmoid" { Score::Sigmoid } else { Score::WideSoftmax },
            corrected: self.moe_router_enable_expert_bias,
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape { biased: self.use_bias, ..ExpertShape::of(c, self.moe_intermediate_size)? };
        let own = self.moe_shared_expert_intermediate_size.filter(|&width| width != 0);
        let shared = ExpertShape { width: own.unwrap_or(shape.width), ..shape };
        let count = if self.moe_router_enable_shared_expert { self.num_shared_experts } else { 0 };
        Moe::load(w, EXPERTS, experts, shape, routing)?.with_shared(w, count, shared)
    }

    fn lightning(&self, c: &Common, layer: usize) -> Result<LightningShape> {
        let heads = c.num_attention_heads()?;
        let dim = c.hidden_size / heads;
        Ok(LightningShape {
            hidden: c.hidden_size,
            heads,
            dim,
            groups: self.group_norm_size,
            eps: c.rms_norm_eps()?,
            bias: [self.use_qkv_bias, self.use_bias],
            has_norms: self.use_qk_norm,
            place: (layer.saturating_sub(1), c.num_hidden_layers as usize),
        })
    }

    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Mixer>> {
        if !self.is_full(c, layer) {
            let shape = self.lightning(c, layer)?;
            let rope = Rope::partial_of(c.rope(), shape.dim)?;
            return Ok(Box::new(Lightning::load(w, shape, rope)?));
        }
        let bias = Bias::of(self.use_qkv_bias, self.use_bias);
        let heads = Heads::grouped(c, Rope::partial(c)?)?.names(ATTENTION).fused().bias(bias);
        let heads = if self.use_qk_norm { heads.qk_norm(Norm::rms, c.rms_norm_eps()?) } else { heads };
        Ok(Box::new(Attention::load(w, heads)?))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.word_embeddings", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        if self.layer_group_size == 0 {
            return Err(Error::config("`layer_group_size` is 0, expected 1 or more"));
        }
        self.lightning(c, 0)?.check()?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        within("num_experts", self.num_experts.unwrap_or(1), MAX_WIDTH)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME);
        rules.push(Rule::Rename("**.mlp.gate.weight", "**.mlp.gate.gate_proj.weight"));
        if self.norm_head {
            rules.push(Rule::custom(norm_head));
        }
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (mixer, mlp) = (self.mixer(&w.at(BLOCK.mixer), c, layer)?, w.at(BLOCK.mlp));
        if let Some(experts) = self.num_experts.filter(|_| layer >= self.first_k_dense_replace) {
            return Ok(Box::new(PreNormBlock::named(w, c, BLOCK, mixer, self.moe(&mlp, c, experts)?)?));
        }
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&mlp, c.hidden_size, c.intermediate_size()?, act, self.use_bias)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, mixer, mlp)?))
    }
}
