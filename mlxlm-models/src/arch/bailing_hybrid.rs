//! Ling 2.5 of inclusionAI: linear attention whose heads forget at fixed speeds, latent attention at the end of each group of
//! layers, and experts (arXiv:2510.19338).
//!
//! Ports `mlx_lm/models/bailing_hybrid.py` @ 0.32.2. Unusual: the positions of linear layers are counted by the caches of the
//! latent ones; the maps of single heads are never packed. Blocks that predict further tokens are dropped. Differences: none.

use super::bailing_moe::EXPERTS;
use super::bailing_moe_linear::{BLOCK, is_full};
use crate::blocks::lightning::{Lightning, LightningShape};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["bailing_hybrid"]).defaults(|| {
    json!({
        "partial_rotary_factor": 0.5, "use_qk_norm": true, "score_function": "sigmoid", "norm_topk_prob": true,
        "moe_router_enable_expert_bias": true,
    })
});

/// What Ling 2.5 adds to [`Common`] and [`LatentConfig`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    num_experts: Option<i32>,
    num_shared_experts: i32,
    num_experts_per_tok: i32,
    norm_topk_prob: bool,
    first_k_dense_replace: usize,
    layer_group_size: usize,
    group_norm_size: i32,
    head_dim: Option<i32>,
    #[serde(default)]
    use_bias: bool,
    #[serde(default)]
    use_qkv_bias: bool,
    use_qk_norm: bool,
    moe_router_enable_expert_bias: bool,
    routed_scaling_factor: f32,
    score_function: String,
    n_group: i32,
    topk_group: i32,
    moe_shared_expert_intermediate_size: Option<i32>,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common, experts: i32) -> Result<Moe> {
        let routing = Routing {
            score: if self.score_function == "sigmoid" { Score::Sigmoid } else { Score::WideSoftmax },
            corrected: self.moe_router_enable_expert_bias,
            normalized: self.norm_topk_prob && self.num_experts_per_tok > 1,
            scale: self.routed_scaling_factor,
            strict: true,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape { biased: self.use_bias, ..ExpertShape::of(c, self.moe_intermediate_size)? };
        let moe = Moe::load(w, EXPERTS, experts, shape, routing)?;
        // A width of the shared experts is that of all.
        match self.moe_shared_expert_intermediate_size.filter(|&width| width != 0) {
            Some(width) => moe.with_shared(w, self.num_shared_experts.min(1), ExpertShape { width, ..shape }),
            None => moe.with_shared(w, self.num_shared_experts, shape),
        }
    }

    fn latent(&self, c: &Common) -> Result<LatentConfig> {
        Ok(LatentConfig::of(c)?.biased(self.use_qkv_bias))
    }

    fn lightning(&self, c: &Common, layer: usize) -> Result<LightningShape> {
        let heads = c.num_attention_heads()?;
        Ok(LightningShape {
            hidden: c.hidden_size,
            heads,
            dim: self.head_dim.filter(|&dim| dim != 0).unwrap_or(c.hidden_size / heads),
            groups: self.group_norm_size,
            eps: c.rms_norm_eps()?,
            bias: [self.use_qkv_bias, self.use_bias],
            has_norms: self.use_qk_norm,
            place: (layer, c.num_hidden_layers as usize),
        })
    }

    fn rope(c: &Common, dim: i32) -> Result<Rope> {
        let mut rope = c.rope().clone();
        rope.traditional = false;
        match Rope::partial_of(&rope, dim)? {
            rope if rope.dims() > 0 => Ok(rope),
            _ => Err(Error::config("`partial_rotary_factor` leaves nothing of a head to be rotated")),
        }
    }

    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Mixer>> {
        if is_full(layer, self.layer_group_size, c.num_hidden_layers as usize) {
            let latent = self.latent(c)?;
            let rope = latent.rope(c)?;
            let heads = LatentHeads::of(c, latent, rope, c.rms_norm_eps()?)?.out("dense");
            return Ok(Box::new(LatentAttention::load(w, heads.keep(Precision::Dense, Precision::Any))?));
        }
        let shape = self.lightning(c, layer)?;
        Ok(Box::new(Lightning::load(w, shape, Self::rope(c, shape.dim)?)?))
    }
}

impl DecoderConfig for Config {
    fn names(&self) -> Names {
        Names { table: "model.word_embeddings", ..LLAMA }
    }

    fn check(&self, c: &Common) -> Result<()> {
        if self.layer_group_size == 0 {
            return Err(Error::config("`layer_group_size` is 0, expected 1 or more"));
        }
        let shape = self.lightning(c, 0)?;
        shape.check()?;
        Self::rope(c, shape.dim)?;
        self.latent(c)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        within("num_experts", self.num_experts.unwrap_or(1), MAX_WIDTH)
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::DropFrom { stack: "model.layers", first: c.num_hidden_layers as usize }];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        rules.push(Rule::Rename("**.mlp.gate.weight", "**.mlp.gate.gate_proj.weight"));
        rules.push(self.latent(c)?.rule(c)?);
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (mixer, mlp) = (self.mixer(&w.at(BLOCK.mixer), c, layer)?, w.at(BLOCK.mlp));
        if let Some(experts) = self.num_experts.filter(|_| layer >= self.first_k_dense_replace) {
            return Ok(Box::new(PreNormBlock::named(w, c, BLOCK, mixer, self.moe(&mlp, c, experts)?)?));
        }
        let act = c.activation(Activation::Silu)?;
        let mlp = Mlp::gated_biased(&mlp, c.hidden_size, c.intermediate_size()?, act, self.use_bias)?;
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, mixer, mlp)?))
    }
}
