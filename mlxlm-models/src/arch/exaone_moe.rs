//! K-EXAONE: experts chosen by a corrected sigmoid, sliding layers that know positions, and full ones that do not
//! (the K-EXAONE technical report, LG AI Research, 2026).
//!
//! Ports `mlx_lm/models/exaone_moe.py` @ 0.32.2. Unusual: if no layer slides, all of them know positions. Blocks that predict
//! further tokens are dropped. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["exaone_moe"]).defaults(|| {
    json!({
        "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": true,
        "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_theta": 1e6,
    })
});

/// What K-EXAONE adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    num_experts: i32,
    num_experts_per_tok: i32,
    num_shared_experts: Option<i32>,
    is_moe_layer: Vec<bool>,
    n_group: i32,
    topk_group: i32,
    routed_scaling_factor: f32,
    norm_topk_prob: bool,
    scoring_func: String,
    topk_method: String,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing = Routing {
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor,
            precision: Precision::Dense,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let moe = Moe::load(w, MoeNames::DEEPSEEK, self.num_experts, shape, routing)?;
        moe.with_shared(w, self.num_shared_experts.unwrap_or(0), shape)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        unsupported(c, "scoring_func", self.scoring_func != "sigmoid")?;
        unsupported(c, "topk_method", self.topk_method != "noaux_tc")
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![
            Rule::Drop("mtp"),
            Rule::Rename("**.mlp.e_score_correction_bias", "**.mlp.gate.e_score_correction_bias"),
        ];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let slide = (0..self.layers(c)).map(|layer| c.slides(layer, false)).collect::<Result<Vec<bool>>>()?;
        let knows_positions = c.slides(layer, false)? || !slide.contains(&true);
        let rope = if knows_positions { Rope::from(c)? } else { Rope::none() };
        let heads = Heads::grouped(c, rope)?.qk_norm(Norm::rms, c.rms_norm_eps()?).window(c.window(layer, false)?);
        let (attention, mlp) = (Attention::load(&w.at("self_attn"), heads)?, w.at("mlp"));
        Ok(Box::new(match of_layer("is_moe_layer", &self.is_moe_layer, layer)? {
            true => PreNormBlock::with(w, c, attention, self.moe(&mlp, c)?)?,
            false => PreNormBlock::with(w, c, attention, Mlp::of(&mlp, c)?)?,
        }))
    }
}
