//! Qwen3 with a mixture of experts in place of some or all MLPs (arXiv:2505.09388).
//!
//! Ports `mlx_lm/models/qwen3_moe.py` @ 0.32.2. Unusual: dense layers may stand between sparse ones, with an MLP of another
//! width. Differences: `rope_scaling` and `use_sliding_window` act, as in transformers.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen3_moe"]);

/// What Qwen3 with experts adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    num_experts: i32,
    num_experts_per_tok: i32,
    moe_intermediate_size: i32,
    decoder_sparse_step: i32,
    mlp_only_layers: Vec<usize>,
    norm_topk_prob: bool,
    #[serde(default)]
    attention_bias: bool,
}

/// Whether a layer has experts: the last of each `step` has, unless it is listed as dense.
pub(super) fn is_sparse(layer: usize, step: i32, dense: &[usize]) -> bool {
    (layer as i32 + 1) % step == 0 && !dense.contains(&layer)
}

impl Config {
    /// No layer is sparse if there are no experts.
    fn is_sparse(&self, layer: usize) -> bool {
        self.num_experts > 0 && is_sparse(layer, self.decoder_sparse_step, &self.mlp_only_layers)
    }

    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing =
            Routing { normalized: self.norm_topk_prob, ..Routing::top(self.num_experts_per_tok, Score::Softmax) };
        Moe::load(w, MoeNames::QWEN, self.num_experts, ExpertShape::of(c, self.moe_intermediate_size)?, routing)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "attention_bias", self.attention_bias)?;
        within("decoder_sparse_step", self.decoder_sparse_step, i32::MAX)?;
        if self.num_experts == 0 {
            return Ok(());
        }
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        Ok(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let heads = Heads::grouped(c, Rope::from(c)?)?.qk_norm(Norm::rms, c.rms_norm_eps()?);
        let attention = Attention::load(&w.at("self_attn"), heads.window(c.window_above(layer)?))?;
        let mlp = w.at("mlp");
        Ok(Box::new(match self.is_sparse(layer) {
            true => PreNormBlock::with(w, c, attention, self.moe(&mlp, c)?)?,
            false => PreNormBlock::with(w, c, attention, Mlp::of(&mlp, c)?)?,
        }))
    }
}
