//! Phi-3-small: layers with block-sparse attention between dense ones, and an MLP with a bounded gate (arXiv:2404.14219).
//!
//! Ports `mlx_lm/models/phi3small.py` @ 0.32.2. Unusual:
//! - In a block-sparse layer a token sees the blocks near its own, and of those before them every few, others for each head.
//! - Queries, keys and values lie together by key head, and gates and linear parts of the MLP alternate.
//! - Scores, embeddings and logits have factors (muP, arXiv:2203.03466); some tokens are never chosen.
//!
//! Differences, after the model's own code: a token sees no later ones, also within its block, and blocks are counted from the
//! first token; `rope_scaling` and `dummy_token_indices` act. What mlx-lm computes instead, where several tokens are read at once,
//! is in [`Stripes::leak`]; no file asks for it (`blocksparse_leaks`), and golden cases that were recorded so are held against it.

use crate::blocks::striped::{StripedAttention, Stripes};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["phi3small"])
    .aliases(&[("ff_intermediate_size", "intermediate_size"), ("rope_embedding_base", "rope_theta")])
    .defaults(|| {
        json!({
            "blocksparse_block_size": 64, "blocksparse_homo_head_pattern": false, "blocksparse_leaks": false,
            "blocksparse_num_local_blocks": 16, "blocksparse_vert_stride": 8, "hidden_act": "gegelu", "mup_attn_multiplier": 1.0,
            "mup_embedding_multiplier": 10.0, "mup_use_scaling": true, "mup_width_multiplier": 8.0,
            "rope_position_scale": 1.0, "rope_theta": 1e6, "tie_word_embeddings": true,
        })
    });

/// What Phi-3-small adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    blocksparse_block_size: i32,
    blocksparse_homo_head_pattern: bool,
    blocksparse_leaks: bool,
    blocksparse_num_local_blocks: i32,
    blocksparse_vert_stride: i32,
    dense_attention_every_n_layers: i32,
    dummy_token_indices: Option<Vec<i32>>,
    gegelu_limit: Option<f32>,
    hidden_act: String,
    layer_norm_epsilon: f32,
    mup_attn_multiplier: f32,
    mup_embedding_multiplier: f32,
    mup_use_scaling: bool,
    mup_width_multiplier: f32,
    rope_position_scale: f32,
}

impl Config {
    /// Tokens that are never chosen: `[V]`.
    fn dummies(&self, c: &Common) -> Array {
        let is_dummy = |token: i32| match &self.dummy_token_indices {
            Some(listed) => listed.contains(&token),
            None => matches!(token, 100_256 | 100_258..=100_260 | 100_264 | 100_265 | 100_267..=100_351),
        };
        let all: Vec<bool> = (0..c.vocab_size).map(is_dummy).collect();
        Array::from_slice(&all, &[c.vocab_size])
    }

    fn attention(&self, w: &Weights, c: &Common, layer: usize) -> Result<StripedAttention> {
        let HeadCounts { count, dim, .. } = c.heads()?;
        let names = AttentionNames { qkv: "query_key_value", out: "dense", ..AttentionNames::LLAMA };
        let scale = match self.mup_use_scaling {
            true => self.mup_attn_multiplier / dim as f32,
            false => (dim as f32).powf(-0.5),
        };
        let rope = Rope::from(c)?.paced(self.rope_position_scale);
        let heads = Heads::grouped(c, rope)?.fused_by_group().bias(Bias::All).names(names).scale(scale);
        let blocks = Stripes {
            heads: count,
            size: self.blocksparse_block_size,
            local: self.blocksparse_num_local_blocks,
            stride: self.blocksparse_vert_stride,
        };
        let is_sparse = layer as i32 % self.dense_attention_every_n_layers == 0;
        let blocks = is_sparse.then_some(blocks);
        Ok(StripedAttention { parts: Attention::load(w, heads)?, blocks, leaks: self.blocksparse_leaks })
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { norm: "model.final_layernorm", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "blocksparse_homo_head_pattern", self.blocksparse_homo_head_pattern)?;
        unsupported(c, "hidden_act", self.hidden_act != "gegelu")?;
        unsupported(c, "blocksparse_block_size", ![32, 64].contains(&self.blocksparse_block_size))?;
        within("blocksparse_vert_stride", self.blocksparse_vert_stride, i32::MAX)?;
        within("dense_attention_every_n_layers", self.dense_attention_every_n_layers, i32::MAX)?;
        positive("layer_norm_epsilon", self.layer_norm_epsilon)?;
        positive("mup_attn_multiplier", self.mup_attn_multiplier)?;
        positive("rope_position_scale", self.rope_position_scale)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::layer(&w.at(self.names().norm), c.hidden_size, self.layer_norm_epsilon, true)?;
        Ok(Frame {
            embedding_scale: Some(self.mup_embedding_multiplier).filter(|scale| *scale != 0.0),
            logit_scale: Some(1.0 / self.mup_width_multiplier).filter(|scale| scale.is_finite()),
            never: Some(self.dummies(c)),
            ..Frame::new(c, norm)
        })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (dims, width, at) = (c.hidden_size, c.intermediate_size()?, w.at("mlp"));
        let mlp = AlternatingMlp {
            up_proj: Linear::load_biased(&at.at("up_proj").columns(), 2 * width, dims, true)?,
            down_proj: Linear::load_biased(&at.at("down_proj").rows(), dims, width, true)?,
            activation: Activation::SwigluOai { alpha: 1.702, limit: self.gegelu_limit.unwrap_or(f32::INFINITY) },
        };
        let attention = self.attention(&w.at("self_attn"), c, layer)?;
        Ok(Box::new(PreNormBlock::layer_normed(w, c, BlockNames::PRE, self.layer_norm_epsilon, attention, mlp)?))
    }
}

/// A gated MLP in whose way in gates and linear parts alternate.
#[derive(Debug)]
struct AlternatingMlp {
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
}

module!(AlternatingMlp { up_proj, down_proj });

impl FeedForward for AlternatingMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let pairs = ops::unflatten(self.up_proj.forward(x)?, -1, &[-1, 2])?;
        let halves = ops::split_equal(&pairs, 2, -1)?;
        let [gate, up] = [&halves[0], &halves[1]].map(|half| half.squeeze_axes(&[-1]));
        Ok(self.down_proj.forward(&fast::gated(self.activation, &gate?, &up?)?)?)
    }
}
