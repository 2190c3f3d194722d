//! MiniMax-M3, the text model: norms stored minus one, bounded activations, and layers whose queries look at the best blocks of
//! keys only.
//!
//! Ports `mlx_lm/models/minimax_m3_vl.py` @ 0.32.2. Unusual:
//! - Small heads of an indexer score the keys; each group of heads attends to the blocks with the best scores and to the latest
//!   ones. Its keys have a cache of their own, without values.
//! - Some files keep the MLP of dense layers under the name of the experts, or the shared expert as the last of these.
//!
//! Differences: blocks are counted from the first token of a row, so that a padded batch is as its rows are alone.

use crate::blocks::block_index::{BlockAttention, BlockIndex, BlockShape};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["minimax_m3_vl"],
    "language_model",
    |_| Ok(&TEXT),
    || ["vision_tower", "multi_modal_projector", "patch_merge_mlp"].map(Rule::Drop).into(),
);

static TEXT: Architecture = Architecture::decoder::<Config>(&["minimax_m3"]).defaults(|| {
    json!({
        "hidden_size": 6144, "intermediate_size": 3072, "dense_intermediate_size": 12288,
        "shared_intermediate_size": 3072, "num_attention_heads": 64, "num_key_value_heads": 4,
        "num_hidden_layers": 60, "num_local_experts": 128, "num_experts_per_tok": 4,
        "max_position_embeddings": 1_048_576, "rope_theta": 5e6, "head_dim": 128, "partial_rotary_factor": 0.5,
        "vocab_size": 200_064, "routed_scaling_factor": 2.0, "use_qk_norm": true, "use_gemma_norm": true,
        "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "index_local_blocks": 1,
    })
});

const BLOCK: BlockNames = BlockNames { mlp: "block_sparse_moe", ..BlockNames::PRE };

const EXPERTS: MoeNames = MoeNames { correction: "e_score_correction_bias", ..MoeNames::DEEPSEEK };

/// What `MiniMax` adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    dense_intermediate_size: i32,
    shared_intermediate_size: i32,
    num_local_experts: i32,
    num_experts_per_tok: i32,
    rotary_dim: Option<i32>,
    routed_scaling_factor: f32,
    use_qk_norm: bool,
    use_gemma_norm: bool,
    swiglu_alpha: f32,
    swiglu_limit: f32,
    mlp_layer_types: Option<Vec<String>>,
    moe_layer_freq: Option<Vec<i32>>,
    #[serde(default)]
    sparse_attention_config: IndexConfig,
    sparse_attention_freq: Option<Vec<i32>>,
    index_n_heads: Option<i32>,
    index_head_dim: Option<i32>,
    index_block_size: Option<i32>,
    index_topk_blocks: Option<i32>,
    index_local_blocks: i32,
}

/// The entries of the indexer as the published files have them, which beat those beside them.
#[derive(Debug, Default, Deserialize)]
struct IndexConfig {
    sparse_num_index_heads: Option<i32>,
    sparse_index_dim: Option<i32>,
    sparse_block_size: Option<i32>,
    sparse_topk_blocks: Option<i32>,
    sparse_local_block: Option<i32>,
    sparse_attention_freq: Option<Vec<i32>>,
}

impl Config {
    fn is_moe(&self, layer: usize) -> Result<bool> {
        match (&self.mlp_layer_types, &self.moe_layer_freq) {
            (Some(types), _) => Ok(of_layer("mlp_layer_types", types, layer)? == "sparse"),
            (None, Some(list)) => Ok(of_layer("moe_layer_freq", list, layer)? != 0),
            (None, None) => Ok(true),
        }
    }

    fn block_size(&self) -> Option<i32> {
        self.sparse_attention_config.sparse_block_size.or(self.index_block_size)
    }

    /// Whether a layer has an indexer.
    fn is_indexed(&self, c: &Common, layer: usize) -> Result<bool> {
        if self.block_size().is_none() {
            return Ok(false);
        }
        if let Some(kind) = c.layer_type(layer)? {
            return Ok(kind != "full_attention");
        }
        match self.sparse_attention_config.sparse_attention_freq.as_ref().or(self.sparse_attention_freq.as_ref()) {
            Some(list) => Ok(of_layer("sparse_attention_freq", list, layer)? != 0),
            None => Ok(true),
        }
    }

    fn norm(&self) -> HeadNorm {
        if self.use_gemma_norm { Norm::rms_plus_one } else { Norm::rms }
    }

    fn activation(&self) -> Activation {
        Activation::SwigluOai { alpha: self.swiglu_alpha, limit: self.swiglu_limit }
    }

    fn rotary_dims(&self, c: &Common) -> Result<i32> {
        let dim = c.heads()?.dim;
        Ok(self.rotary_dim.unwrap_or((f64::from(dim) * c.rope().partial().unwrap_or(0.5)) as i32))
    }

    fn index(&self, c: &Common) -> Result<BlockShape> {
        let index = &self.sparse_attention_config;
        let number = |name: &str, nested: Option<i32>, flat: Option<i32>| nested.or(flat).ok_or_else(|| missing(name));
        Ok(BlockShape {
            heads: number("index_n_heads", index.sparse_num_index_heads, self.index_n_heads)?,
            dim: number("index_head_dim", index.sparse_index_dim, self.index_head_dim)?,
            block: number("index_block_size", self.block_size(), None)?,
            kept: number("index_topk_blocks", index.sparse_topk_blocks, self.index_topk_blocks)?,
            local: index.sparse_local_block.unwrap_or(self.index_local_blocks),
            rotary: self.rotary_dims(c)?,
            norm: self.norm(),
        })
    }

    fn attention(&self, w: &Weights, c: &Common, layer: usize) -> Result<BlockAttention> {
        let heads = Heads::grouped(c, Rope::over(c.rope(), self.rotary_dims(c)?)?)?;
        let heads = if self.use_qk_norm { heads.qk_norm(self.norm(), c.rms_norm_eps()?) } else { heads };
        let index = || BlockIndex::load(w, c, self.index(c)?);
        let indexer = self.is_indexed(c, layer)?.then(index).transpose()?;
        Ok(BlockAttention { attention: Attention::load(w, heads)?, indexer })
    }

    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing = Routing {
            normalized: true,
            scale: self.routed_scaling_factor,
            ..Routing::balanced(self.num_experts_per_tok, None)
        };
        let activation = self.activation();
        let shape = ExpertShape { dims: c.hidden_size, width: c.intermediate_size()?, activation, biased: false };
        let shared = ExpertShape { width: self.shared_intermediate_size, ..shape };
        Moe::load(w, EXPERTS, self.num_local_experts, shape, routing)?.with_shared(w, 1, shared)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        within("num_local_experts", self.num_local_experts, MAX_WIDTH)?;
        within("dense_intermediate_size", self.dense_intermediate_size, MAX_WIDTH)?;
        within("rotary_dim", self.rotary_dims(c)?, c.heads()?.dim)?;
        positive("swiglu_limit", self.swiglu_limit)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let (experts, shared) = (self.num_local_experts, "**.block_sparse_moe.shared_experts.gate_up_proj");
        let mut rules: Vec<Rule> = [
            ("**.block_sparse_moe.gate_proj", "**.mlp.gate_proj"),
            ("**.block_sparse_moe.up_proj", "**.mlp.up_proj"),
            ("**.block_sparse_moe.down_proj", "**.mlp.down_proj"),
        ]
        .map(|(from, to)| Rule::Rename(from, to))
        .into();
        rules.push(Rule::custom(move |tensors| part_with_shared(tensors, experts)));
        for leaf in ["**.block_sparse_moe.switch_mlp.gate_up_proj", shared] {
            rules.push(Rule::Halve { leaf, into: ["gate_proj", "up_proj"] });
        }
        let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
        rules.extend(Rule::stack_experts("**.block_sparse_moe.experts.*", "**.block_sparse_moe.switch_mlp", &parts));
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Ok(Frame::new(c, self.norm()(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?))
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let norm = |name: &str| Ok::<_, Error>(self.norm()(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        let norms = [norm(BLOCK.pre_mixer)?, norm(BLOCK.pre_mlp)?];
        let mixer = self.attention(&w.at(BLOCK.mixer), c, layer)?;
        if self.is_moe(layer)? {
            return Ok(Box::new(PreNormBlock::new(BLOCK, norms, mixer, self.moe(&w.at(BLOCK.mlp), c)?)));
        }
        let names = BlockNames::PRE;
        let mlp = Mlp::gated(&w.at(names.mlp), c.hidden_size, self.dense_intermediate_size, self.activation())?;
        Ok(Box::new(PreNormBlock::new(names, norms, mixer, mlp)))
    }
}

/// Takes the shared expert from the end of stacks that have one more than there are experts.
fn part_with_shared(tensors: &mut Tensors, experts: i32) -> Result<()> {
    let found: Vec<String> =
        tensors.keys().filter(|name| name.contains(".block_sparse_moe.switch_mlp.")).cloned().collect();
    for name in found {
        let Some(all) = tensors.get(&name).filter(|all| all.ndim() > 0 && all.dim(0) == experts + 1) else { continue };
        let parts = ops::split_at_indices(all, &[experts], 0)?;
        if let [routed, shared] = &parts[..] {
            let shared = shared.squeeze_axes(&[0])?;
            tensors.insert(name.replace(".switch_mlp.", ".shared_experts."), shared);
            tensors.insert(name, routed.clone());
        }
    }
    Ok(())
}
