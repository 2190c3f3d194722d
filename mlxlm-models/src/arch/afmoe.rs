//! Trinity of Arcee: gated attention whose sliding layers alone know positions, four norms in each block, and experts chosen by
//! corrected scores (the Trinity technical report, Arcee AI, 2025).
//!
//! Ports `mlx_lm/models/afmoe.py` @ 0.32.2. Unusual: embeddings are scaled by √D if `mup_enabled`. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["afmoe"]).defaults(|| {
    json!({
        "vocab_size": 200_192, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1024,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "num_experts": 128, "num_experts_per_tok": 8,
        "num_shared_experts": 1, "num_dense_layers": 2, "route_norm": true, "route_scale": 2.826,
        "score_func": "sigmoid", "n_group": 1, "topk_group": 1, "sliding_window": 2048, "mup_enabled": true,
    })
});

const NAMES: MoeNames =
    MoeNames { gate: "router.gate", correction: "expert_bias", experts: "experts", ..MoeNames::DEEPSEEK };

const GATE: Gate = Gate { name: "gate_proj", by_head: false, activation: Activation::Sigmoid };

/// What Trinity adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    num_experts: i32,
    num_experts_per_tok: i32,
    num_shared_experts: i32,
    num_dense_layers: usize,
    route_norm: bool,
    route_scale: f32,
    score_func: String,
    n_group: i32,
    topk_group: i32,
    mup_enabled: bool,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing = Routing {
            score: if self.score_func == "sigmoid" { Score::Sigmoid } else { Score::WideSoftmax },
            normalized: self.route_norm && self.num_experts_per_tok > 1,
            scale: self.route_scale,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        Moe::load(w, NAMES, self.num_experts, shape, routing)?.with_shared(w, self.num_shared_experts, shape)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        unsupported(c, "score_func", !["sigmoid", "softmax"].contains(&self.score_func.as_str()))
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.experts", &SAME))
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at("model.norm"), c.hidden_size, c.rms_norm_eps()?)?;
        let embedding_scale = self.mup_enabled.then_some((c.hidden_size as f32).sqrt());
        Ok(Frame { embedding_scale, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        const NAMES: BlockNames =
            BlockNames { pre_mlp: "pre_mlp_layernorm", post_mlp: "post_mlp_layernorm", ..BlockNames::SANDWICH };
        let rope = if c.slides(layer, false)? { Rope::from(c)? } else { Rope::none() };
        let heads = Heads::grouped(c, rope)?.qk_norm(Norm::rms, c.rms_norm_eps()?).window(c.window(layer, false)?);
        let (attention, mlp) = (GatedAttention::load(&w.at("self_attn"), heads, GATE, true)?, w.at("mlp"));
        let norm = |w: &Weights| Ok(Norm::rms(w, c.hidden_size, c.rms_norm_eps()?)?);
        Ok(Box::new(match layer < self.num_dense_layers {
            true => SandwichBlock::load(w, NAMES, norm, attention, Mlp::of(&mlp, c)?)?,
            false => SandwichBlock::load(w, NAMES, norm, attention, self.moe(&mlp, c)?)?,
        }))
    }
}
