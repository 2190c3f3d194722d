//! Attention to the latest rows and to compressed groups of older ones that an index finds, and blocks over several streams of
//! states: the parts of DeepSeek-V4.1.

mod attention;
mod compressor;
mod experts;
mod indexer;
mod rounding;
pub(crate) mod streams;

use serde::Deserialize;

pub(crate) use attention::LatestAttention;
pub(crate) use experts::SharedExperts;

/// What DeepSeek-V4.1 adds to the entries that all models have.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    pub(crate) head_dim: i32,
    pub(crate) q_lora_rank: i32,
    pub(crate) qk_rope_head_dim: i32,
    pub(crate) o_groups: i32,
    pub(crate) o_lora_rank: i32,
    pub(crate) moe_intermediate_size: i32,
    pub(crate) n_routed_experts: i32,
    pub(crate) num_experts_per_tok: i32,
    pub(crate) scoring_func: String,
    pub(crate) gate_temp: f32,
    pub(crate) norm_topk_prob: bool,
    pub(crate) routed_scaling_factor: f32,
    pub(crate) swiglu_limit: f32,
    #[serde(default)]
    pub(crate) compress_ratios: Vec<i32>,
    #[serde(default)]
    pub(crate) kv_source_layer_ids: Vec<usize>,
    #[serde(default)]
    pub(crate) index_source_layer_ids: Vec<usize>,
    pub(crate) compress_rope_theta: f32,
    pub(crate) candidate_source_layer_id: i64,
    pub(crate) candidate_topk_blocks: i32,
    pub(crate) candidate_block_size: i32,
    pub(crate) index_n_heads: i32,
    pub(crate) index_head_dim: i32,
    pub(crate) index_topk: i32,
    pub(crate) hc_mult: i32,
    pub(crate) hc_sinkhorn_iters: i32,
    pub(crate) hc_eps: f32,
    #[serde(default)]
    pub(crate) engram_layer_ids: Vec<i64>,
}

impl Config {
    /// How many tokens a layer compresses into one; zero if it sees the latest rows only.
    pub(crate) fn ratio(&self, layer: usize) -> i32 {
        self.compress_ratios.get(layer).copied().unwrap_or(0)
    }
}
