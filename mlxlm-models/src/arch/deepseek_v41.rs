//! DeepSeek-V4.1, the text model: several streams of states that each block reads and writes a mixture of, and attention to
//! the latest rows and to compressed groups of older ones that an index finds (arXiv:2512.24880 on the streams).
//!
//! Ports `mlx_lm/models/deepseek_v41.py` @ 0.32.2. Unusual:
//! - States between blocks are `[B, L, streams, D]`.
//! - Rows are keys and values of all heads at once; what goes into a cache is rounded to 8 or 4 bits, as in training.
//! - Some layers compress and some look things up in the index; the others go by what the last of these found.
//! - Some parameters stay in `f32` whatever the model is cast to.
//!
//! Differences: none. Layers with engram memory are rejected, as in the reference.

use crate::blocks::compressed::streams::{self, Collapse, HyperConnection, Spread, collapse, expand};
use crate::blocks::compressed::{Config, LatestAttention, SharedExperts};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(&["deepseek_v41"], "", |_| Ok(&TEXT), Vec::new);

/// The same without the outer configuration of a model of images.
pub(super) const TEXT: Architecture = Architecture::decoder::<Config>(&["deepseek_v41_text"]).defaults(|| {
    json!({
        "vocab_size": 129_280, "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 64, "head_dim": 512,
        "q_lora_rank": 1280, "qk_rope_head_dim": 64, "o_groups": 8, "o_lora_rank": 1024, "moe_intermediate_size": 2304,
        "n_routed_experts": 384, "num_experts_per_tok": 6, "scoring_func": "sqrtsoftplus", "gate_temp": 1.0,
        "norm_topk_prob": true, "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "rms_norm_eps": 1e-20,
        "sliding_window": 128, "compress_rope_theta": 160_000.0, "candidate_source_layer_id": -1,
        "candidate_topk_blocks": 2048, "candidate_block_size": 8, "index_n_heads": 32, "index_head_dim": 128,
        "index_topk": 512, "max_position_embeddings": 1_048_576, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
    })
});

impl Config {
    fn check_lists(&self, c: &Common) -> Result<()> {
        if let Some(ratio) = self.compress_ratios.iter().find(|&&ratio| ratio < 0) {
            return Err(Error::config(format!("`compress_ratios` has {ratio}, expected no negative numbers")));
        }
        for (name, layers) in [
            ("kv_source_layer_ids", &self.kv_source_layer_ids),
            ("index_source_layer_ids", &self.index_source_layer_ids),
        ] {
            let layer = layers.iter().find(|&&layer| layer >= self.compress_ratios.len());
            if let Some(layer) = layer.filter(|&&layer| layer < c.num_hidden_layers as usize) {
                return Err(Error::config(format!(
                    "`{name}` has layer {layer}, which has no entry in `compress_ratios`"
                )));
            }
        }
        Ok(())
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "engram_layer_ids", !self.engram_layer_ids.is_empty())?;
        let heads = c.num_attention_heads()?;
        within("head_dim", self.head_dim, MAX_WIDTH / heads)?;
        within("q_lora_rank", self.q_lora_rank, MAX_WIDTH)?;
        within("qk_rope_head_dim", self.qk_rope_head_dim, self.head_dim.min(self.index_head_dim))?;
        within("o_groups", self.o_groups, heads)?;
        if heads % self.o_groups != 0 {
            let groups = self.o_groups;
            return Err(Error::config(format!(
                "`num_attention_heads` {heads} is not a multiple of `o_groups` {groups}"
            )));
        }
        within("o_lora_rank", self.o_lora_rank, MAX_WIDTH / self.o_groups)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        within("n_routed_experts", self.n_routed_experts, MAX_WIDTH)?;
        positive("gate_temp", self.gate_temp)?;
        positive("compress_rope_theta", self.compress_rope_theta)?;
        within("candidate_block_size", self.candidate_block_size, MAX_WIDTH)?;
        within("index_n_heads", self.index_n_heads, MAX_WIDTH)?;
        within("index_head_dim", self.index_head_dim, MAX_WIDTH / self.index_n_heads)?;
        within("index_topk", self.index_topk, i32::MAX)?;
        within("hc_mult", self.hc_mult, 64)?;
        within("hc_sinkhorn_iters", self.hc_sinkhorn_iters, 1000)?;
        positive("hc_eps", self.hc_eps)?;
        c.sliding_window()?.ok_or_else(|| missing("sliding_window"))?;
        self.check_lists(c)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules: Vec<Rule> = ["vision", "aligner", "mtp", "**.engram", "**.gate.bias_vl"].map(Rule::Drop).into();
        rules.push(Rule::custom(|tensors| {
            tensors.retain(|name, _| !name.starts_with("image_"));
            Ok(())
        }));
        rules.extend(RENAMED.iter().map(|(from, to)| Rule::Rename(from, to)));
        let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
        rules.extend(Rule::stack_experts("**.ffn.experts.*", "**.mlp.experts.switch_mlp", &parts));
        rules.push(Rule::Rename("**.ffn", "**.mlp"));
        let groups = self.o_groups;
        rules.push(Rule::custom(move |tensors| into_groups(tensors, groups)));
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        let entry: Box<dyn Block> = Box::new(Spread { count: self.hc_mult });
        Ok(Frame { entry: Some(entry), exit: Some(Box::new(Collapse)), ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| Ok::<_, Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        Ok(Box::new(StreamBlock {
            input_layernorm: norm("input_layernorm")?,
            self_attn: LatestAttention::load(&w.at("self_attn"), self, c, layer)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: SharedExperts::load(&w.at("mlp"), self, c)?,
            attn_hc: HyperConnection::load(&w.at("attn_hc"), self, c)?,
            ffn_hc: HyperConnection::load(&w.at("ffn_hc"), self, c)?,
        }))
    }
}

/// The names of published checkpoints, and ours, in the order in which they change.
const RENAMED: &[(&str, &str)] = &[
    ("embed", "model.embed_tokens"),
    ("head", "lm_head"),
    ("norm", "model.norm"),
    ("layers", "model.layers"),
    ("**.attn_norm", "**.input_layernorm"),
    ("**.ffn_norm", "**.post_attention_layernorm"),
    ("**.hc_attn_fn", "**.attn_hc.fn"),
    ("**.hc_attn_base", "**.attn_hc.base"),
    ("**.hc_attn_scale", "**.attn_hc.scale"),
    ("**.hc_ffn_fn", "**.ffn_hc.fn"),
    ("**.hc_ffn_base", "**.ffn_hc.base"),
    ("**.hc_ffn_scale", "**.ffn_hc.scale"),
    ("**.attn.attn_sink", "**.attn.sinks"),
    ("**.attn.compressor.norm", "**.attn.compressor.kv_norm"),
    ("**.attn.compressor.wkv", "**.attn.compressor.kv_proj"),
    ("**.attn.compressor.wgate", "**.attn.compressor.gate_proj"),
    ("**.attn.indexer.wk", "**.attn.indexer.k_proj"),
    ("**.attn.indexer.wq_b", "**.attn.indexer.q_b_proj"),
    ("**.attn.q_norm", "**.attn.q_a_norm"),
    ("**.attn.wq_a", "**.attn.q_a_proj"),
    ("**.attn.wq_b", "**.attn.q_b_proj"),
    ("**.attn.wkv", "**.attn.kv_proj"),
    ("**.attn.wo_a", "**.attn.o_a_proj"),
    ("**.attn.wo_b", "**.attn.o_b_proj"),
    ("**.attn", "**.self_attn"),
    ("**.ffn.gate.bias", "**.ffn.gate.e_score_correction_bias"),
    ("**.ffn.shared_experts.w1", "**.ffn.shared_experts.gate_proj"),
    ("**.ffn.shared_experts.w2", "**.ffn.shared_experts.down_proj"),
    ("**.ffn.shared_experts.w3", "**.ffn.shared_experts.up_proj"),
];

/// Cuts the rows of each `o_a_proj` into those of its groups.
fn into_groups(tensors: &mut Tensors, groups: i32) -> Result<()> {
    for (name, array) in tensors.iter_mut() {
        let is_whole = |&[rows, _]: &[i32; 2]| rows % groups == 0;
        if name.contains(".o_a_proj.")
            && let Ok(shape) = <[i32; 2]>::try_from(array.shape())
            && is_whole(&shape)
        {
            *array = array.reshape(&[groups, -1, shape[1]])?;
        }
    }
    Ok(())
}

/// A block between streams.
#[derive(Debug)]
struct StreamBlock {
    input_layernorm: Norm,
    self_attn: LatestAttention,
    post_attention_layernorm: Norm,
    mlp: SharedExperts,
    attn_hc: HyperConnection,
    ffn_hc: HyperConnection,
}

module!(StreamBlock { input_layernorm, self_attn, post_attention_layernorm, mlp, attn_hc, ffn_hc });

impl Block for StreamBlock {
    /// `x` and the result are streams, `[B, L, streams, D]`.
    fn forward(&self, x: &Array, step: &mut Step) -> Result<Array> {
        let own = self.attn_hc.mixtures(x)?;
        let read = streams::take_mixture(step)?;
        let h = self.self_attn.forward(&self.input_layernorm.forward(&collapse(x, &read)?)?, step)?;
        let x = expand(&h, x, &own)?;
        let next = self.ffn_hc.mixtures(&x)?;
        let h = self.mlp.forward(&self.post_attention_layernorm.forward(&collapse(&x, &own.read)?)?)?;
        let x = expand(&h, &x, &next)?;
        streams::leave_mixture(step, next.read);
        Ok(x)
    }

    fn caches(&self) -> Vec<CacheKind> {
        vec![CacheKind::Compressed]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that tensors of a published checkpoint get, in the shape `[4, 2]` each.
    fn renamed(names: &[&str]) -> Vec<String> {
        let config = json!({"model_type": "deepseek_v41", "o_groups": 2});
        let rules = ARCH.rules(&ModelConfig::new(config).unwrap()).unwrap();
        let draw = |name: &&str| ((*name).to_owned(), ops::zeros::<f32>(&[4, 2]).unwrap());
        let mut tensors: Tensors = names.iter().map(draw).collect();
        for _ in 0..2 {
            for rule in &rules {
                rule.apply(&mut tensors).unwrap();
            }
        }
        tensors.into_iter().map(|(name, array)| format!("{name} {:?}", array.shape())).collect()
    }

    #[test]
    fn published_names_become_ours() {
        let attention =
            ["attn.wq_a.weight", "attn.wo_a.weight", "attn.wo_a.scales", "attn.attn_sink", "attn_norm.weight"];
        let expected = [
            "input_layernorm.weight [4, 2]",
            "self_attn.o_a_proj.scales [2, 2, 2]",
            "self_attn.o_a_proj.weight [2, 2, 2]",
            "self_attn.q_a_proj.weight [4, 2]",
            "self_attn.sinks [4, 2]",
        ];
        let inside = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| format!("layers.3.{name}")).collect();
            let renamed = renamed(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let short = |name: String| name.strip_prefix("model.layers.3.").map(str::to_owned).unwrap_or(name);
            renamed.into_iter().map(short).collect::<Vec<_>>()
        };
        assert_eq!(inside(&attention), expected);
        let mlp = ["ffn.experts.0.w3.weight", "ffn.gate.bias", "ffn.gate.bias_vl", "hc_ffn_fn", "engram.x.weight"];
        let expected = [
            "ffn_hc.fn [4, 2]",
            "mlp.experts.switch_mlp.up_proj.weight [1, 4, 2]",
            "mlp.gate.e_score_correction_bias [4, 2]",
        ];
        assert_eq!(inside(&mlp), expected);
        let around = ["embed.weight", "head.weight", "norm.weight", "vision.x", "image_newline", "mtp.0.x"];
        assert_eq!(
            renamed(&around),
            ["lm_head.weight [4, 2]", "model.embed_tokens.weight [4, 2]", "model.norm.weight [4, 2]"]
        );
    }
}
