//! Step 3.5 Flash: sliding layers with more heads between full ones, gated by head, and experts whose activation may be bounded
//! (arXiv:2602.10604).
//!
//! Ports `mlx_lm/models/step3p5.py` @ 0.32.2. Unusual:
//! - The base of the rotation, the share of a head that is rotated and the bounds of activations are lists by layer.
//! - The original layout stores the weights of norms minus one; converted checkpoints store them whole.
//!
//! Blocks that predict further tokens are dropped. Differences: none.

use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::decoder::<Config>(&["step3p5"])
    .aliases(&[("num_attention_groups", "num_key_value_heads")])
    .defaults(|| {
        json!({
            "rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 262_144, "sliding_window": 512,
            "use_head_wise_attn_gate": true, "moe_num_experts": 288, "moe_top_k": 8, "moe_intermediate_size": 1280,
            "share_expert_dim": 1280, "moe_router_scaling_factor": 3.0, "norm_expert_weight": true,
        })
    });

const NAMES: MoeNames =
    MoeNames { gate: "gate.gate", correction: "gate.router_bias", shared: "share_expert", ..MoeNames::QWEN };

const GATE: Gate = Gate { name: "g_proj", by_head: true, activation: Activation::Sigmoid };

/// What Step 3.5 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    rope_theta: PerLayer<f32>,
    #[serde(default)]
    yarn_only_types: Vec<String>,
    #[serde(default)]
    partial_rotary_factors: Vec<f64>,
    attention_other_setting: Option<OtherHeads>,
    use_head_wise_attn_gate: bool,
    moe_num_experts: i32,
    moe_top_k: i32,
    moe_intermediate_size: i32,
    share_expert_dim: i32,
    moe_layers_enum: Option<String>,
    moe_router_scaling_factor: f32,
    norm_expert_weight: bool,
    #[serde(default)]
    swiglu_limits: Vec<Option<f32>>,
    #[serde(default)]
    swiglu_limits_shared: Vec<Option<f32>>,
}

/// The heads of sliding layers.
#[derive(Debug, Deserialize)]
struct OtherHeads {
    num_attention_heads: i32,
    num_attention_groups: i32,
    head_dim: Option<i32>,
    true_head_dim: Option<i32>,
    attention_type: Option<String>,
}

/// The activation of a layer, whose bound is the entry of a list; zero or none at all is no bound.
fn activation(limits: &[Option<f32>], layer: usize) -> Activation {
    match limits.get(layer).copied().flatten() {
        Some(limit) if limit > 0.0 => Activation::SwigluClamped { limit },
        _ => Activation::Silu,
    }
}

impl Config {
    /// All layers but the first have experts, unless there is a list.
    fn is_sparse(&self, layer: usize) -> Result<bool> {
        let Some(list) = self.moe_layers_enum.as_deref().map(str::trim).filter(|list| !list.is_empty()) else {
            return Ok(layer > 0);
        };
        let layers = list.split(',').map(|number| number.trim().parse::<usize>()).collect::<Result<Vec<_>, _>>();
        match layers {
            Ok(layers) => Ok(layers.contains(&layer)),
            Err(_) => {
                Err(Error::config(format!("`moe_layers_enum` is `{list}`, expected numbers with commas between")))
            }
        }
    }

    fn heads(&self, c: &Common, layer: usize) -> Result<Heads> {
        let (slides, mut counts) = (c.slides(layer, layer % 2 == 0)?, c.heads()?);
        if let Some(other) = self.attention_other_setting.as_ref().filter(|_| slides) {
            counts = HeadCounts::checked(other.num_attention_heads, other.num_attention_groups, counts.dim)?;
        }
        let kind = c.layer_type(layer)?.unwrap_or("full_attention");
        let is_stretched = self.yarn_only_types.is_empty() || self.yarn_only_types.iter().any(|other| other == kind);
        let rope = c.rope().clone().with_theta(self.rope_theta.at("rope_theta", layer)?);
        let rope = if is_stretched { rope } else { rope.unscaled() };
        let share = self.partial_rotary_factors.get(layer).copied().unwrap_or(1.0);
        Ok(Heads::of(c.hidden_size, counts, Rope::share_of(&rope, counts.dim, share)?)
            .qk_norm(Norm::rms, c.rms_norm_eps()?)
            .window(c.window(layer, slides)?))
    }

    fn moe(&self, w: &Weights, c: &Common, layer: usize) -> Result<Moe> {
        let routing = Routing {
            normalized: self.norm_expert_weight,
            scale: self.moe_router_scaling_factor,
            ..Routing::balanced(self.moe_top_k, None)
        };
        let shape = ExpertShape {
            activation: activation(&self.swiglu_limits, layer),
            ..ExpertShape::of(c, self.moe_intermediate_size)?
        };
        let shared = ExpertShape {
            width: self.share_expert_dim,
            activation: activation(&self.swiglu_limits_shared, layer),
            ..shape
        };
        Moe::load(w, NAMES, self.moe_num_experts, shape, routing)?.with_shared(w, 1, shared)
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "hidden_act", c.activation(Activation::Silu)? != Activation::Silu)?;
        within("moe_num_experts", self.moe_num_experts, MAX_WIDTH)?;
        within("moe_top_k", self.moe_top_k, self.moe_num_experts)?;
        within("moe_intermediate_size", self.moe_intermediate_size, MAX_WIDTH)?;
        let Some(other) = &self.attention_other_setting else { return Ok(()) };
        let dim = c.heads()?.dim;
        let is_other = |other: Option<i32>| other.is_some_and(|other| other != dim);
        unsupported(c, "attention_other_setting.head_dim", is_other(other.head_dim) || is_other(other.true_head_dim))?;
        let kind = other.attention_type.as_deref();
        unsupported(c, "attention_other_setting.attention_type", kind.is_some_and(|kind| kind != "sliding_attention"))
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        Ok(vec![
            Rule::custom(add_one_to_original_norms),
            Rule::custom(|tensors| {
                tensors.retain(|name, _| !name.contains(".mtp"));
                Ok(())
            }),
            Rule::DropFrom { stack: "model.layers", first: c.num_hidden_layers as usize },
            Rule::Rename("**.moe.gate", "**.mlp.gate.gate"),
            Rule::Rename("**.moe.router_bias", "**.mlp.gate.router_bias"),
            Rule::Rename("**.moe", "**.mlp.switch_mlp"),
            Rule::Rename("model.layers.*.share_expert", "model.layers.*.mlp.share_expert"),
        ])
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        Frame::untied(w, c)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (at, mlp) = (w.at("self_attn"), w.at("mlp"));
        let mixer = GatedAttention::load(&at, self.heads(c, layer)?, GATE, self.use_head_wise_attn_gate)?;
        if self.is_sparse(layer)? {
            return Ok(Box::new(PreNormBlock::with(w, c, mixer, self.moe(&mlp, c, layer)?)?));
        }
        let act = activation(&self.swiglu_limits_shared, layer);
        let mlp = Mlp::gated(&mlp, c.hidden_size, c.intermediate_size()?, act)?;
        Ok(Box::new(PreNormBlock::with(w, c, mixer, mlp)?))
    }
}

/// The original layout is known by the names of its experts.
fn add_one_to_original_norms(tensors: &mut Tensors) -> Result<()> {
    let is_original = |name: &String| {
        name.contains(".moe.") || name.contains(".share_expert.") && !name.contains(".mlp.share_expert.")
    };
    if !tensors.keys().any(is_original) {
        return Ok(());
    }
    for (_, array) in tensors.iter_mut().filter(|(name, _)| name.contains("norm") && name.ends_with(".weight")) {
        *array = array.add(Array::from_f32(1.0).as_dtype(array.dtype())?)?;
    }
    Ok(())
}
