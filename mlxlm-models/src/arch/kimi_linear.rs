//! Kimi Linear: three layers of delta attention to one of latent attention without positions, and experts chosen by a corrected
//! score (arXiv:2510.26692).
//!
//! Ports `mlx_lm/models/kimi_linear.py` @ 0.32.2. Unusual: no layer rotates anything, though keys have a part for it, whatever
//! `mla_use_nope` says. Differences: scores and gates are computed in f32.

use serde_json::Value;

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["kimi_linear"])
    .aliases(&[("model_max_length", "max_position_embeddings")])
    .defaults(|| {
        json!({
            "num_experts_per_token": 1, "moe_router_activation_func": "sigmoid", "moe_renormalize": true,
            "routed_scaling_factor": 1.0, "moe_layer_freq": 1, "num_expert_group": 1, "topk_group": 1,
        })
    });

/// The names of a sparse layer's parts.
pub(super) const EXPERTS: MoeNames = MoeNames { correction: "e_score_correction_bias", ..MoeNames::DEEPSEEK };

/// What Kimi Linear adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    head_dim: Option<i32>,
    qk_nope_head_dim: Option<i32>,
    qk_rope_head_dim: Option<i32>,
    v_head_dim: Option<i32>,
    kv_lora_rank: i32,
    linear_attn_config: KimiDeltaConfig,
    num_experts: i32,
    moe_intermediate_size: i32,
    /// Heads of keys and values are those of queries, and nothing is rotated.
    #[serde(rename = "num_key_value_heads")]
    _num_key_value_heads: Option<Value>,
}

/// Which layers have experts, and how they are chosen: entries that [`kimi_k3`](super::kimi_k3) has too.
#[derive(Debug, Deserialize)]
pub(super) struct Sparse {
    num_experts_per_token: i32,
    #[serde(default)]
    pub(super) num_shared_experts: i32,
    moe_router_activation_func: String,
    moe_renormalize: bool,
    routed_scaling_factor: f32,
    #[serde(default)]
    first_k_dense_replace: usize,
    moe_layer_freq: usize,
    num_expert_group: i32,
    topk_group: i32,
    topk_method: Option<String>,
    /// Groups count by their number alone, and positions are never used.
    #[serde(rename = "use_grouped_topk")]
    _use_grouped_topk: Option<Value>,
    #[serde(rename = "mla_use_nope")]
    _mla_use_nope: Option<Value>,
}

impl Sparse {
    /// The entries of a configuration, checked.
    pub(super) fn of(c: &Common) -> Result<Self> {
        let own: Self = c.part()?;
        own.routing()?;
        unsupported(c, "topk_method", own.topk_method.as_ref().is_some_and(|method| method != "noaux_tc"))?;
        match own.moe_layer_freq {
            0 => Err(Error::config("`moe_layer_freq` is 0, expected 1 or more")),
            _ => Ok(own),
        }
    }

    /// Whether a layer has experts, in a model that has any.
    pub(super) fn covers(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace && layer % self.moe_layer_freq == 0
    }

    /// How experts are chosen.
    pub(super) fn routing(&self) -> Result<Routing> {
        let score = match self.moe_router_activation_func.as_str() {
            "sigmoid" => Score::Sigmoid,
            "softmax" => Score::WideSoftmax,
            other => {
                return Err(Error::config(format!(
                    "`moe_router_activation_func` is `{other}`, expected `sigmoid` or `softmax`"
                )));
            }
        };
        let groups = (self.num_expert_group > 1).then(|| Groups::by_two(self.num_expert_group, self.topk_group));
        Ok(Routing {
            score,
            normalized: self.moe_renormalize && self.num_experts_per_token > 1,
            scale: self.routed_scaling_factor,
            ..Routing::balanced(self.num_experts_per_token, groups.flatten())
        })
    }
}

/// What has to be done to the checkpoints of both Kimis: experts, routers and convolutions under the reference's names.
pub(super) fn rules() -> Vec<Rule> {
    let parts = [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")];
    let mut rules = Rule::stack_experts("**.block_sparse_moe.experts.*", "**.mlp.switch_mlp", &parts);
    rules.extend([
        Rule::Rename("**.block_sparse_moe.gate.e_score_correction_bias", "**.block_sparse_moe.e_score_correction_bias"),
        Rule::Rename("**.block_sparse_moe", "**.mlp"),
        Rule::Rename("**.q_conv1d", "**.q_conv.conv"),
        Rule::Rename("**.k_conv1d", "**.k_conv.conv"),
        Rule::Rename("**.v_conv1d", "**.v_conv.conv"),
        Rule::depthwise("**.q_conv.conv.weight"),
        Rule::depthwise("**.k_conv.conv.weight"),
        Rule::depthwise("**.v_conv.conv.weight"),
        Rule::custom(|tensors| flatten(tensors, "dt_bias")),
    ]);
    rules
}

impl Config {
    fn latent(&self) -> Result<LatentConfig> {
        let or_head = |own: Option<i32>| own.filter(|&dim| dim != 0).or(self.head_dim);
        let nope = or_head(self.qk_nope_head_dim).ok_or_else(|| missing("qk_nope_head_dim"))?;
        let value = or_head(self.v_head_dim).ok_or_else(|| missing("v_head_dim"))?;
        Ok(LatentConfig::sized(None, self.kv_lora_rank, [nope, self.qk_rope_head_dim.unwrap_or(0), value]))
    }

    fn delta(&self, c: &Common) -> Result<KimiDeltaShape> {
        let shape = KimiDeltaShape::of(&self.linear_attn_config, c.hidden_size, c.rms_norm_eps()?);
        Ok(KimiDeltaShape { deep_rates: true, ..shape })
    }

    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Mixer>> {
        if self.linear_attn_config.is_delta(layer) {
            return Ok(Box::new(KimiDelta::load(w, self.delta(c)?)?));
        }
        let heads = LatentHeads::of(c, self.latent()?, Rope::none(), c.rms_norm_eps()?)?.unstretched();
        Ok(Box::new(LatentAttention::load(w, heads)?))
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        self.delta(c)?.check()?;
        self.latent()?.check(c)?;
        Sparse::of(c)?;
        unsupported(c, "linear_attn_config.gate_lower_bound", self.linear_attn_config.gate_lower_bound.is_some())?;
        unsupported(c, "linear_attn_config.use_full_rank_gate", self.linear_attn_config.use_full_rank_gate)?;
        match self.num_experts {
            0 => Ok(()),
            _ => {
                all_within(&[("num_experts", self.num_experts), ("moe_intermediate_size", self.moe_intermediate_size)])
            }
        }
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let mut all = vec![Rule::Drop("model.mtp")];
        all.extend(rules());
        all.push(self.latent()?.rule(c)?);
        Ok(all)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        // Positions are read by nobody, whatever is said of them.
        c.rope();
        let (mixer, mlp, sparse) = (self.mixer(&w.at("self_attn"), c, layer)?, w.at("mlp"), Sparse::of(c)?);
        if self.num_experts == 0 || !sparse.covers(layer) {
            return Ok(Box::new(PreNormBlock::with(w, c, mixer, Mlp::of(&mlp, c)?)?));
        }
        let shape = ExpertShape::of(c, self.moe_intermediate_size)?;
        let moe = Moe::load(&mlp, EXPERTS, self.num_experts, shape, sparse.routing()?)?;
        let moe = moe.with_shared(&mlp, sparse.num_shared_experts, shape)?;
        Ok(Box::new(PreNormBlock::with(w, c, mixer, moe)?))
    }
}
