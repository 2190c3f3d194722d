//! OLMoE: a mixture of experts in every layer, and norms over all heads of queries and of keys (arXiv:2409.02060).
//!
//! Ports `mlx_lm/models/olmoe.py` @ 0.32.2. Unusual: the shares of the chosen experts add up to one only with
//! `norm_topk_prob`, and the head is tied unless the configuration says otherwise. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["olmoe"])
    .defaults(|| json!({"tie_word_embeddings": true, "norm_topk_prob": false}));

/// What `OLMoE` adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts: i32,
    num_experts_per_tok: i32,
    norm_topk_prob: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    clip_qkv: Option<f32>,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        unsupported(c, "clip_qkv", self.clip_qkv.is_some())
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME))
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?
            .bias(Bias::all(self.attention_bias))
            .whole_qk_norm(Norm::rms, c.rms_norm_eps()?);
        let top = Routing::top(self.num_experts_per_tok, Score::Softmax);
        let routing = Routing { normalized: self.norm_topk_prob, from_above: false, ..top };
        let shape = ExpertShape { biased: self.mlp_bias, ..ExpertShape::of(c, c.intermediate_size()?)? };
        let moe = Moe::load(&w.at("mlp"), MoeNames::QWEN, self.num_experts, shape, routing)?;
        Ok(Box::new(PreNormBlock::with(w, c, Attention::load(&w.at("self_attn"), heads)?, moe)?))
    }
}
