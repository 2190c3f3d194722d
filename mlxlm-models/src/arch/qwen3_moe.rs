//! Qwen3 with a mixture of experts in place of some or all MLPs (arXiv:2505.09388).
//!
//! Ports `mlx_lm/models/qwen3_moe.py` @ 0.32.2. Unusual:
//! - The softmax is taken over all experts before the best are chosen; whether their shares then add up to one is an entry.
//! - Dense layers may stand between sparse ones, with an MLP of another width.
//! - `rope_scaling` stretches the rotation as in Qwen3; the reference reads the entry and does not apply it.

use mlxlm_core::nn::{Leaf, Module};

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["qwen3_moe"]).routers(&["mlp.gate"]).rules(&[
    Rule::Stack { from: "**.mlp.experts.*.gate_proj", to: "**.mlp.switch_mlp.gate_proj" },
    Rule::Stack { from: "**.mlp.experts.*.up_proj", to: "**.mlp.switch_mlp.up_proj" },
    Rule::Stack { from: "**.mlp.experts.*.down_proj", to: "**.mlp.switch_mlp.down_proj" },
]);

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

impl Config {
    /// The last layer of each step has experts, unless it is listed as dense; no layer has any if there are none.
    fn is_sparse(&self, layer: usize) -> bool {
        let ends_a_step = (layer as i32 + 1) % self.decoder_sparse_step == 0;
        self.num_experts > 0 && ends_a_step && !self.mlp_only_layers.contains(&layer)
    }
}

/// What follows attention in a block.
#[derive(Debug)]
enum FeedForward {
    Dense(Mlp),
    Sparse(Moe),
}

impl Module for FeedForward {
    fn walk<'a>(&'a mut self, path: &str, visit: &mut dyn FnMut(&str, Leaf<'a>)) {
        match self {
            Self::Dense(mlp) => mlp.walk(path, visit),
            Self::Sparse(moe) => moe.walk(path, visit),
        }
    }
}

/// A pre-norm block with one MLP or with experts.
#[derive(Debug)]
struct Qwen3MoeBlock {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    mlp: FeedForward,
}

module!(Qwen3MoeBlock { input_layernorm, self_attn, post_attention_layernorm, mlp });

impl DecoderConfig for Config {
    type Block = Qwen3MoeBlock;

    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "attention_bias", self.attention_bias)?;
        within("decoder_sparse_step", self.decoder_sparse_step, i32::MAX)?;
        if self.num_experts == 0 {
            return Ok(());
        }
        within("num_experts", self.num_experts, MAX_WIDTH)?;
        within("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Qwen3MoeBlock> {
        let norm = |name: &str| Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps);
        let heads = Heads::grouped(c, Rope::from(c)?).qk_norm(Norm::rms, c.rms_norm_eps);
        let mlp = w.at("mlp");
        let mlp = if self.is_sparse(layer) {
            let dims = (c.hidden_size, self.moe_intermediate_size);
            let router = Router::SoftmaxThenTop { normalized: self.norm_topk_prob };
            FeedForward::Sparse(Moe::load(&mlp, dims, (self.num_experts, self.num_experts_per_tok), router)?)
        } else {
            FeedForward::Dense(Mlp::gated(&mlp, c.hidden_size, c.intermediate_size, Activation::Silu, false)?)
        };
        Ok(Qwen3MoeBlock {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp,
        })
    }
}

impl Block for Qwen3MoeBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let [h, r] = self.post_attention_layernorm.forward_sum(x, &attended)?;
        let r = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.forward(&r)?,
            FeedForward::Sparse(moe) => moe.forward(&r)?,
        };
        Ok(h.add(r)?)
    }

    fn cache(&self) -> CacheKind {
        self.self_attn.cache()
    }
}
