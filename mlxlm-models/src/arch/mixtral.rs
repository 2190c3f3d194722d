//! Mixtral: Llama with a mixture of experts in place of the MLP (arXiv:2401.04088).
//!
//! Ports `mlx_lm/models/mixtral.py` @ 0.32.2. Unusual: the softmax is taken over the chosen experts only.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["mixtral"])
    .rules(&[
        Rule::Stack { from: "**.block_sparse_moe.experts.*.w1", to: "**.block_sparse_moe.switch_mlp.gate_proj" },
        Rule::Stack { from: "**.block_sparse_moe.experts.*.w2", to: "**.block_sparse_moe.switch_mlp.down_proj" },
        Rule::Stack { from: "**.block_sparse_moe.experts.*.w3", to: "**.block_sparse_moe.switch_mlp.up_proj" },
    ])
    .defaults(|| json!({"rope_theta": 1e6, "rms_norm_eps": 1e-5}));

/// What Mixtral adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default = "eight")]
    num_local_experts: i32,
    #[serde(default = "two")]
    num_experts_per_tok: i32,
}

fn eight() -> i32 {
    8
}

fn two() -> i32 {
    2
}

/// A pre-norm block with experts.
#[derive(Debug)]
struct MixtralBlock {
    input_layernorm: Norm,
    self_attn: Attention,
    post_attention_layernorm: Norm,
    block_sparse_moe: Moe,
}

module!(MixtralBlock { input_layernorm, self_attn, post_attention_layernorm, block_sparse_moe });

impl DecoderConfig for Config {
    type Block = MixtralBlock;

    fn check(&self, _c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        within("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)
    }

    fn block(&self, w: &Weights, c: &Common, _layer: usize) -> Result<MixtralBlock> {
        let norm = |name: &str| Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps);
        let heads = Heads::grouped(c, Rope::plain(c.head_dim(), c.rope_theta(), c.rope_traditional));
        let (dims, experts) =
            ((c.hidden_size, c.intermediate_size), (self.num_local_experts, self.num_experts_per_tok));
        Ok(MixtralBlock {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&w.at("self_attn"), heads)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            block_sparse_moe: Moe::load(&w.at("block_sparse_moe"), dims, experts, Router::TopThenSoftmax)?,
        })
    }
}

impl Block for MixtralBlock {
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, step)?;
        let [h, r] = self.post_attention_layernorm.forward_sum(x, &attended)?;
        Ok(h.add(self.block_sparse_moe.forward(&r)?)?)
    }

    fn cache(&self) -> CacheKind {
        self.self_attn.cache()
    }
}
