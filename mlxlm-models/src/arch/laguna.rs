//! Laguna of Poolside: layers with heads of their own number, gated by head, and experts chosen by corrected scores.
//!
//! Ports `mlx_lm/models/laguna.py` @ 0.32.2. Unusual: full and sliding layers rotate other parts of a head, and the gate of a head
//! is a softplus. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["laguna"]).defaults(|| {
    json!({
        "vocab_size": 100_352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
        "gating": true, "sliding_window": 512, "num_experts": 256, "num_experts_per_tok": 8,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "moe_routed_scaling_factor": 1.0,
        "moe_router_logit_softcapping": 0.0, "moe_router_score_func": "sigmoid",
    })
});

const NAMES: MoeNames = MoeNames { gate: "gate.proj", correction: "gate.e_score_correction_bias", ..MoeNames::QWEN };

const GATE: Gate = Gate { name: "g_proj", by_head: true, activation: Activation::Softplus };

/// What Laguna adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    qkv_bias: bool,
    gating: bool,
    num_attention_heads_per_layer: Option<Vec<i32>>,
    mlp_layer_types: Option<Vec<String>>,
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    shared_expert_intermediate_size: i32,
    moe_routed_scaling_factor: f32,
    moe_router_logit_softcapping: f32,
    moe_router_score_func: String,
}

impl Config {
    /// All layers but the first have experts, unless there is a list.
    fn is_sparse(&self, layer: usize) -> Result<bool> {
        match &self.mlp_layer_types {
            Some(types) => Ok(of_layer("mlp_layer_types", types, layer)? == "sparse"),
            None => Ok(layer > 0),
        }
    }

    fn score(&self) -> Result<Score> {
        match self.moe_router_score_func.as_str() {
            "sigmoid" => Ok(Score::Sigmoid),
            "sqrtsoftplus" => Ok(Score::SqrtSoftplus),
            other => Err(Error::config(format!(
                "`moe_router_score_func` is `{other}`, expected `sigmoid` or `sqrtsoftplus`"
            ))),
        }
    }

    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let cap = self.moe_router_logit_softcapping;
        let routing = Routing {
            score: self.score()?,
            normalized: true,
            scale: self.moe_routed_scaling_factor,
            softcap: (cap > 0.0).then_some(cap),
            ..Routing::balanced(self.num_experts_per_tok, None)
        };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let shared = ExpertShape { width: self.shared_expert_intermediate_size, ..shape };
        Moe::load(w, NAMES, self.num_experts, shape, routing)?.with_shared(w, 1, shared)
    }

    fn heads(&self, c: &Common, layer: usize) -> Result<Heads> {
        let mut counts = c.heads()?;
        if let Some(list) = &self.num_attention_heads_per_layer {
            let count = of_layer("num_attention_heads_per_layer", list, layer)?;
            counts = HeadCounts::checked(count, counts.kv_count, counts.dim)?;
        }
        // The share of a head that is rotated may stand beside the objects for each type of layer.
        let rope = c.rope().of_type(c.layer_type(layer)?.unwrap_or("full_attention"));
        let share = rope.partial().or(c.rope().partial()).unwrap_or(1.0);
        Ok(Heads::of(c.hidden_size, counts, Rope::share_of(&rope, counts.dim, share)?)
            .bias(Bias::of(self.qkv_bias, self.attention_bias))
            .qk_norm(Norm::rms, c.rms_norm_eps()?)
            .window(c.window(layer, false)?))
    }
}

impl DecoderConfig for Config {
    fn check(&self, _c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        self.score().map(drop)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![
            Rule::Rename("language_model.**", "**"),
            Rule::Rename("**.mlp.gate.weight", "**.mlp.gate.proj.weight"),
            Rule::Rename("**.mlp.experts.e_score_correction_bias", "**.mlp.gate.e_score_correction_bias"),
        ];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (at, mlp) = (w.at("self_attn"), w.at("mlp"));
        let mixer = GatedAttention::load(&at, self.heads(c, layer)?, GATE, self.gating)?;
        Ok(Box::new(match self.is_sparse(layer)? {
            true => PreNormBlock::with(w, c, mixer, self.moe(&mlp, c)?)?,
            false => PreNormBlock::with(w, c, mixer, Mlp::of(&mlp, c)?)?,
        }))
    }
}
