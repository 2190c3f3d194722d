//! Ling and Ring of inclusionAI: fused attention, dense layers first, and experts chosen by a softmax or by a corrected sigmoid
//! (arXiv:2503.05139, arXiv:2510.22115).
//!
//! Ports `mlx_lm/models/bailing_moe.py` @ 0.32.2. Unusual: with `norm_head` the columns of the head are divided by their lengths
//! as it is loaded. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["bailing_moe"]).defaults(|| {
    json!({
        "routed_scaling_factor": 1.0, "score_function": "softmax", "n_group": 1, "topk_group": 4,
        "moe_router_enable_shared_expert": true,
    })
});

/// The names of attention's parts.
pub(super) const ATTENTION: AttentionNames = AttentionNames {
    qkv: "query_key_value",
    out: "dense",
    q_norm: "query_layernorm",
    k_norm: "key_layernorm",
    ..AttentionNames::LLAMA
};

/// The names of a sparse layer's parts.
pub(super) const EXPERTS: MoeNames =
    MoeNames { gate: "gate.gate_proj", correction: "gate.expert_bias", ..MoeNames::DEEPSEEK };

/// What Ling adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    num_experts: Option<i32>,
    num_shared_experts: i32,
    norm_topk_prob: bool,
    num_experts_per_tok: i32,
    first_k_dense_replace: usize,
    #[serde(default)]
    use_bias: bool,
    #[serde(default)]
    use_qkv_bias: bool,
    #[serde(default)]
    norm_head: bool,
    #[serde(default)]
    use_qk_norm: bool,
    rotary_dim: Option<i32>,
    #[serde(default)]
    moe_router_enable_expert_bias: bool,
    routed_scaling_factor: f32,
    score_function: String,
    n_group: i32,
    topk_group: i32,
    moe_shared_expert_intermediate_size: Option<i32>,
    moe_router_enable_shared_expert: bool,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common, experts: i32) -> Result<Moe> {
        let routing = Routing {
            score: if self.score_function == "sigmoid" { Score::Sigmoid } else { Score::WideSoftmax },
            corrected: self.moe_router_enable_expert_bias,
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor,
            from_above: true,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape { biased: self.use_bias, ..ExpertShape::of(c, self.moe_intermediate_size)? };
        let own = self.moe_shared_expert_intermediate_size.filter(|&width| width != 0);
        let shared = ExpertShape { width: own.unwrap_or(shape.width), ..shape };
        let count = if self.moe_router_enable_shared_expert { self.num_shared_experts } else { 0 };
        Moe::load(w, EXPERTS, experts, shape, routing)?.with_shared(w, count, shared)
    }

    fn heads(&self, c: &Common) -> Result<Heads> {
        let rope = match self.rotary_dim {
            Some(dims) => Rope::over(c.rope(), dims)?,
            None => Rope::partial(c)?,
        };
        let bias = Bias::of(self.use_qkv_bias, self.use_bias);
        let heads = Heads::grouped(c, rope)?.names(ATTENTION).fused().bias(bias);
        Ok(match self.use_qk_norm {
            true => heads.qk_norm(Norm::rms, c.rms_norm_eps()?),
            false => heads,
        })
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.word_embeddings", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        if let Some(experts) = self.num_experts {
            within("num_experts", experts, MAX_WIDTH)?;
        }
        if let Some(dims) = self.rotary_dim {
            within("rotary_dim", dims, c.heads()?.dim)?;
        }
        unsupported(c, "score_function", !["sigmoid", "softmax"].contains(&self.score_function.as_str()))
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
        let names = BlockNames { mixer: "attention", ..BlockNames::PRE };
        let (attention, mlp) = (Attention::load(&w.at(names.mixer), self.heads(c)?)?, w.at(names.mlp));
        if let Some(experts) = self.num_experts.filter(|_| layer >= self.first_k_dense_replace) {
            return Ok(Box::new(PreNormBlock::named(w, c, names, attention, self.moe(&mlp, c, experts)?)?));
        }
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&mlp, c.hidden_size, c.intermediate_size()?, act, self.use_bias)?;
        Ok(Box::new(PreNormBlock::named(w, c, names, attention, mlp)?))
    }
}

/// Divides the columns of the head by their lengths; those that have the length of one stay what they are.
pub(super) fn norm_head(tensors: &mut Tensors) -> Result<()> {
    let Some(head) = tensors.get_mut("lm_head.weight").filter(|head| head.dtype().is_float()) else { return Ok(()) };
    let wide = head.as_dtype(Dtype::Float32)?;
    let length = ops::sqrt(&wide.square()?.sum_axis(0, true)?)?.add(Array::from_f32(1e-7))?;
    *head = wide.divide(length)?.as_dtype(head.dtype())?;
    Ok(())
}
