//! Ling 3 of inclusionAI: Kimi's delta attention, gated latent attention at the end of each group of layers, and experts
//! (arXiv:2510.26692, arXiv:2510.22115).
//!
//! Ports `mlx_lm/models/bailing_moe_v3.py` @ 0.32.2. Unusual: its files name it by `architectures`, and have the `model_type` of
//! [`bailing_hybrid`](super::bailing_hybrid); the router is computed in f32; embeddings, head, router, and latent attention but
//! for its way out are never packed. Blocks that predict further tokens are dropped. Differences: rates of the decay keep their
//! type when a model is cast.

use super::bailing_moe_linear::{BLOCK, is_full};
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["bailing_moe_v3"])
    .by_class(&[("bailing_hybrid", "BailingMoeV3ForCausalLM")])
    .defaults(|| {
        json!({
            "vocab_size": 157_184, "hidden_size": 1536, "intermediate_size": 4608, "moe_intermediate_size": 512,
            "moe_shared_expert_intermediate_size": 512, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_experts": 128, "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 8,
            "topk_group": 4, "routed_scaling_factor": 2.5, "layer_group_size": 4, "head_dim": 128, "q_lora_rank": 256,
            "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "short_conv_kernel_size": 4, "kda_lower_bound": -5.0, "kda_safe_gate": true, "no_kda_lora": true,
            "rope_theta": 6e6, "max_position_embeddings": 131_072, "rope_interleave": true,
        })
    });

/// The names of a sparse layer's parts.
const EXPERTS: MoeNames = MoeNames { correction: "gate.expert_bias", ..MoeNames::DEEPSEEK };

/// What Ling 3 adds to [`Common`] and [`LatentConfig`].
#[derive(Debug, Deserialize)]
struct Config {
    moe_intermediate_size: i32,
    moe_shared_expert_intermediate_size: i32,
    num_experts: i32,
    num_experts_per_tok: i32,
    num_shared_experts: i32,
    first_k_dense_replace: usize,
    n_group: i32,
    topk_group: i32,
    routed_scaling_factor: f32,
    layer_group_size: usize,
    head_dim: i32,
    short_conv_kernel_size: i32,
    kda_lower_bound: f32,
    kda_safe_gate: bool,
    no_kda_lora: bool,
    rope_interleave: bool,
}

impl Config {
    fn moe(&self, w: &Weights, c: &Common) -> Result<Moe> {
        let routing = Routing {
            normalized: true,
            scale: self.routed_scaling_factor,
            precision: Precision::Dense,
            wide: true,
            strict: true,
            ..Routing::balanced(self.num_experts_per_tok, Groups::by_two(self.n_group, self.topk_group))
        };
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let shared = ExpertShape { width: self.moe_shared_expert_intermediate_size, ..shape };
        let moe = Moe::load(w, EXPERTS, self.num_experts, shape, routing)?;
        moe.with_shared(w, self.num_shared_experts, shared)
    }

    fn delta(&self, c: &Common) -> Result<KimiDeltaShape> {
        Ok(KimiDeltaShape {
            hidden: c.hidden_size,
            heads: c.num_attention_heads()?,
            dim: self.head_dim,
            filter: self.short_conv_kernel_size,
            eps: c.rms_norm_eps()?,
            lower_bound: Some(self.kda_lower_bound),
            is_fused: false,
            narrow_decay: false,
            narrow_gate: false,
            convs: ["q_conv1d", "k_conv1d", "v_conv1d"],
            deep_rates: false,
            strengths: Precision::Dense,
        })
    }

    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Mixer>> {
        if !is_full(layer, self.layer_group_size, c.num_hidden_layers as usize) {
            return Ok(Box::new(KimiDelta::load(w, self.delta(c)?)?));
        }
        let latent = LatentConfig::of(c)?.biased(false);
        let rope = latent.rope(c)?;
        let heads = LatentHeads::of(c, latent, rope, c.rms_norm_eps()?)?.out("dense");
        let heads = heads.gated(Some(LatentGate::Heads)).keep(Precision::Dense, Precision::Dense);
        Ok(Box::new(LatentAttention::load(w, heads)?))
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
        for (name, is_set) in [
            ("kda_safe_gate", self.kda_safe_gate),
            ("no_kda_lora", self.no_kda_lora),
            ("rope_interleave", self.rope_interleave),
        ] {
            if !is_set {
                return Err(Error::config(format!("`{name}` is false, which is not supported for `bailing_moe_v3`")));
            }
        }
        self.delta(c)?.check()?;
        LatentConfig::of(c)?;
        all_within(&[("num_experts", self.num_experts), ("moe_intermediate_size", self.moe_intermediate_size)])
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::DropFrom { stack: "model.layers", first: c.num_hidden_layers as usize }];
        rules.extend(Rule::stack_experts("**.mlp.experts.*", "**.mlp.switch_mlp", &SAME));
        rules.extend([
            LatentConfig::of(c)?.rule(c)?,
            Rule::depthwise("**.q_conv1d.weight"),
            Rule::depthwise("**.k_conv1d.weight"),
            Rule::depthwise("**.v_conv1d.weight"),
        ]);
        Ok(rules)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        Ok(Frame { table_precision: Precision::Dense, head_precision: Precision::Dense, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (mixer, mlp) = (self.mixer(&w.at(BLOCK.mixer), c, layer)?, w.at(BLOCK.mlp));
        if layer >= self.first_k_dense_replace {
            return Ok(Box::new(PreNormBlock::named(w, c, BLOCK, mixer, self.moe(&mlp, c)?)?));
        }
        Ok(Box::new(PreNormBlock::named(w, c, BLOCK, mixer, Mlp::of(&mlp, c)?)?))
    }
}
