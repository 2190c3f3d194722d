//! DeepSeek-V3.2: DeepSeek-V3 whose queries attend to the tokens that an index finds for them (arXiv:2512.02556).
//!
//! Ports `mlx_lm/models/deepseek_v32.py` @ 0.32.2. Unusual: each layer has a second cache for the keys of its index; as long as
//! there are no more than `index_topk` tokens, all are attended to. Differences: those of `deepseek_v3`.

use super::deepseek_v3::{self, EPS};
use crate::blocks::token_index::{IndexShape, IndexedLatents, TokenIndex};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["deepseek_v32"]).defaults(|| {
    json!({
        "vocab_size": 102_400, "hidden_size": 4096, "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048,
        "intermediate_size": 11008, "moe_intermediate_size": 1407, "num_hidden_layers": 30, "num_attention_heads": 32,
        "moe_layer_freq": 1, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0, "norm_topk_prob": true,
        "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "max_position_embeddings": 2048,
        "indexer_rope_interleave": false,
    })
});

/// What DeepSeek-V3.2 adds to [`Common`], [`LatentConfig`] and [`SparseConfig`].
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    index_head_dim: i32,
    index_n_heads: i32,
    index_topk: i32,
    indexer_rope_interleave: bool,
    // Which layers have an index of their own: a list, or else a pattern, or else each `index_topk_freq`-th layer. All have one if
    // nothing is said. Only GLM-5.2 knows these entries.
    indexer_types: Option<Vec<IndexerType>>,
    index_topk_pattern: Option<String>,
    index_topk_freq: Option<usize>,
    index_skip_topk_offset: Option<usize>,
}

/// Where the tokens of a layer are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum IndexerType {
    /// By an index of its own.
    Full,
    /// By the index of the last layer that has one.
    Shared,
}

impl Config {
    fn check_sharing(&self, c: &Common) -> Result<()> {
        let (layers, types) = (c.num_hidden_layers as usize, self.indexer_types.as_ref());
        if let Some(types) = types.filter(|types| types.len() != layers) {
            return Err(Error::config(format!("`indexer_types` has {} entries, expected {layers}", types.len())));
        }
        let is_pattern = |text: &str| text.len() == layers && text.chars().all(|layer| matches!(layer, 'F' | 'S'));
        let pattern = self.index_topk_pattern.as_deref().filter(|_| types.is_none());
        if let Some(pattern) = pattern.filter(|pattern| !is_pattern(pattern)) {
            return Err(Error::config(format!("`index_topk_pattern` is {pattern:?}, expected {layers} times F or S")));
        }
        match self.has_index(0) {
            true => Ok(()),
            false => Err(Error::config("the first layer has to have an index: there is none before it to share")),
        }
    }

    /// Layers beyond those of the stack are heads that predict further tokens, which have an index.
    fn has_index(&self, layer: usize) -> bool {
        if let Some(types) = &self.indexer_types {
            return types.get(layer) != Some(&IndexerType::Shared);
        }
        if let Some(pattern) = &self.index_topk_pattern {
            return pattern.as_bytes().get(layer) != Some(&b'S');
        }
        let offset = self.index_skip_topk_offset.unwrap_or(2);
        (layer + 1).saturating_sub(offset).is_multiple_of(self.index_topk_freq.unwrap_or(1).max(1))
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        let latent = LatentConfig::of(c)?;
        latent.q_lora_rank.ok_or_else(|| missing("q_lora_rank"))?;
        within("index_n_heads", self.index_n_heads, MAX_WIDTH)?;
        within("index_head_dim", self.index_head_dim, MAX_WIDTH / self.index_n_heads)?;
        within("qk_rope_head_dim", latent.qk_rope_head_dim, self.index_head_dim)?;
        within("index_topk", self.index_topk, i32::MAX)?;
        self.check_sharing(c)?;
        SparseConfig::of(c)?.by_sigmoid().map(drop)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        deepseek_v3::rules(c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (latent, sparse) = (LatentConfig::of(c)?, SparseConfig::of(c)?);
        let (rope, at) = (latent.rope(c)?, w.at("self_attn"));
        let shape = IndexShape {
            heads: self.index_n_heads,
            dim: self.index_head_dim,
            most: self.index_topk,
            interleaved: self.indexer_rope_interleave,
        };
        let (index, shares) = (at.at("indexer"), !self.has_index(layer));
        // mlx-lm gives every layer an index, and its folders may have one that is not used.
        let indexer = (!shares || !index.lacks("wk.weight")).then(|| TokenIndex::load(&index, shape, c, &latent));
        let indexer = indexer.transpose()?;
        let attention = LatentAttention::load(&at, LatentHeads::of(c, latent, rope, EPS)?)?;
        Ok(Box::new(sparse.block(w, c, layer, IndexedLatents { attention, indexer, shares }, sparse.by_sigmoid()?)?))
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(MtpNames::DEEPSEEK)
    }
}
