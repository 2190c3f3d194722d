//! Kimi K3, the text model: delta attention and gated latent attention, experts in a narrow width, and residuals that choose among
//! earlier states.
//!
//! Ports `mlx_lm/models/kimi_k3.py` @ 0.32.2. Unusual:
//! - Every `attn_res_block_size` layers the state is stored and the sum begins anew; each half of a block reads a mixture of what
//!   is stored and the sum, by a softmax over their normed states.
//! - MLPs and experts have the activation SiTU.
//! - Queries, keys and values of delta attention share one projection and one convolution.
//!
//! Differences: gates are computed in f32.

use mlxlm_core::nn::join;
use serde_json::Value;

use super::kimi_linear::{EXPERTS, Sparse, rules};
use crate::blocks::choosing::{Choice, ChoiceNames, ChoosingBlock, LastChoice};
use crate::blocks::narrow_moe::NarrowMoe;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(
    &["kimi_k3"],
    "language_model",
    |_| Ok(&TEXT),
    || {
        vec![
            Rule::Drop("vision_tower"),
            Rule::Drop("vision_model"),
            Rule::Drop("multi_modal_projector"),
            Rule::Drop("mm_projector"),
            Rule::Rename("model", "language_model.model"),
            Rule::Rename("mtp", "language_model.mtp"),
            Rule::Rename("lm_head", "language_model.lm_head"),
        ]
    },
);

/// The text model; its own `model_type` is that of Kimi Linear.
static TEXT: Architecture = Architecture::decoder::<Config>(&[]).defaults(|| {
    json!({
        "model_type": "kimi_k3", "vocab_size": 163_840, "hidden_size": 7168, "num_hidden_layers": 93,
        "num_attention_heads": 96, "intermediate_size": 33792, "rms_norm_eps": 1e-5, "max_position_embeddings": 1_048_576,
        "hidden_act": "situ", "mla_use_nope": true, "num_experts_per_token": 16, "moe_router_activation_func": "sigmoid",
        "moe_renormalize": true, "routed_scaling_factor": 1.0, "moe_layer_freq": 1, "num_expert_group": 1, "topk_group": 1,
    })
});

/// The norms of latents and narrow queries have this of their own.
const EPS: f32 = 1e-6;

/// What the text model of K3 adds to [`Common`].
#[derive(Debug, Deserialize)]
struct Config {
    linear_attn_config: KimiDeltaConfig,
    hidden_act: String,
    activation_situ_beta: Option<f32>,
    activation_situ_linear_beta: Option<f32>,
    attn_res_block_size: Option<usize>,
    q_lora_rank: Option<i32>,
    kv_lora_rank: i32,
    qk_nope_head_dim: i32,
    qk_rope_head_dim: i32,
    v_head_dim: i32,
    mla_use_nope: bool,
    #[serde(default)]
    mla_use_output_gate: bool,
    #[serde(default)]
    num_experts: i32,
    moe_intermediate_size: Option<i32>,
    routed_expert_hidden_size: Option<i32>,
    #[serde(default)]
    latent_moe_use_norm: bool,
    #[serde(rename = "num_key_value_heads")]
    _num_key_value_heads: Option<Value>,
}

impl Config {
    fn latent(&self) -> LatentConfig {
        let sizes = [self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim];
        LatentConfig::sized(self.q_lora_rank, self.kv_lora_rank, sizes)
    }

    fn delta(&self, c: &Common) -> Result<KimiDeltaShape> {
        let shape = KimiDeltaShape::of(&self.linear_attn_config, c.hidden_size, c.rms_norm_eps()?);
        Ok(KimiDeltaShape { is_fused: true, convs: ["qkv_conv.conv", "", ""], ..shape })
    }

    fn activation(&self) -> Activation {
        let beta = self.activation_situ_beta.filter(|&beta| beta != 0.0).unwrap_or(1.0);
        Activation::Situ { beta, linear_beta: self.activation_situ_linear_beta }
    }

    fn mixer(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Mixer>> {
        if self.linear_attn_config.is_delta(layer) {
            return Ok(Box::new(KimiDelta::load(w, self.delta(c)?)?));
        }
        let heads = LatentHeads::of(c, self.latent(), Rope::none(), EPS)?.unstretched();
        let heads = heads.gated(self.mla_use_output_gate.then_some(LatentGate::Values));
        Ok(Box::new(LatentAttention::load(w, heads)?))
    }

    fn mlp(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn FeedForward>> {
        let (act, sparse) = (self.activation(), Sparse::of(c)?);
        if self.num_experts == 0 || !sparse.covers(layer) {
            return Ok(Box::new(Mlp::gated(w, c.hidden_size, c.intermediate_size()?, act)?));
        }
        let width = self.moe_intermediate_size.ok_or_else(|| missing("moe_intermediate_size"))?;
        let (shape, routing) = (ExpertShape { activation: act, ..ExpertShape::plain(c, width) }, sparse.routing()?);
        let Some(narrow) = self.routed_expert_hidden_size else {
            let moe = Moe::load(w, EXPERTS, self.num_experts, shape, routing)?;
            return Ok(Box::new(moe.with_shared(w, sparse.num_shared_experts, shape)?));
        };
        let norm = |w: &Weights| Norm::rms(&w.at("routed_expert_norm"), narrow, c.rms_norm_eps().unwrap_or(EPS));
        let shared = sparse.num_shared_experts;
        let wide = if shared == 0 { 0 } else { product(width, shared)? };
        Ok(Box::new(NarrowMoe {
            router: Router::load(w, EXPERTS, (c.hidden_size, self.num_experts), routing)?,
            down: Linear::load(&w.at("routed_expert_down_proj"), narrow, c.hidden_size)?,
            experts: Experts::gated(&w.at(EXPERTS.experts), self.num_experts, (narrow, width), act, false)?,
            norm: self.latent_moe_use_norm.then(|| norm(w)).transpose()?,
            up: Linear::load(&w.at("routed_expert_up_proj"), c.hidden_size, narrow)?,
            shared: (wide > 0).then(|| Mlp::gated(&w.at(EXPERTS.shared), c.hidden_size, wide, act)).transpose()?,
        }))
    }
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        self.delta(c)?.check()?;
        self.latent().check(c)?;
        if Sparse::of(c)?.routing()?.score != Score::Sigmoid {
            return Err(Error::config("`moe_router_activation_func` is not `sigmoid`, the only one of `kimi_k3`"));
        }
        if self.hidden_act != "situ" {
            return Err(Error::config(format!("`hidden_act` is `{}`, expected `situ`", self.hidden_act)));
        }
        if !self.mla_use_nope {
            return Err(Error::config("`mla_use_nope` is false, which is not supported for `kimi_k3`"));
        }
        if self.attn_res_block_size == Some(0) {
            return Err(Error::config("`attn_res_block_size` is 0, expected 1 or more"));
        }
        if let Activation::Situ { beta, linear_beta } = self.activation() {
            positive("activation_situ_beta", beta)?;
            positive("activation_situ_linear_beta", linear_beta.unwrap_or(1.0))?;
        }
        if self.num_experts == 0 {
            return Ok(());
        }
        all_within(&[
            ("num_experts", self.num_experts),
            ("moe_intermediate_size", self.moe_intermediate_size.unwrap_or(0)),
            ("routed_expert_hidden_size", self.routed_expert_hidden_size.unwrap_or(1)),
        ])
    }

    fn rules(&self, c: &Common) -> Result<Vec<Rule>> {
        let heads = self.linear_attn_config.num_heads;
        let mut all = vec![
            Rule::Drop("mtp"),
            Rule::Drop("model.mtp"),
            Rule::DropFrom { stack: "model.layers", first: c.num_hidden_layers as usize },
            Rule::Rename("**.self_attention_res.proj_weight", "**.self_attention_res_proj.weight"),
            Rule::Rename("**.self_attention_res.norm_weight", "**.self_attention_res_norm.weight"),
            Rule::Rename("**.mlp_res.proj_weight", "**.mlp_res_proj.weight"),
            Rule::Rename("**.mlp_res.norm_weight", "**.mlp_res_norm.weight"),
            Rule::Rename("**.output_attn_res.proj_weight", "**.output_attn_res_proj.weight"),
            Rule::Rename("**.output_attn_res.norm_weight", "**.output_attn_res_norm.weight"),
        ];
        all.extend(rules());
        all.push(Rule::custom(move |tensors| rates(tensors, heads)));
        all.push(Rule::custom(fuse));
        all.push(self.latent().rule(c)?);
        Ok(all)
    }

    fn frame(&self, w: &Weights, c: &Common) -> Result<Frame> {
        let norm = Norm::rms(&w.at(LLAMA.norm), c.hidden_size, c.rms_norm_eps()?)?;
        let at = w.at(LLAMA.root);
        let exit = match self.attn_res_block_size {
            None => None,
            Some(_) => {
                let names = ChoiceNames { proj: "output_attn_res_proj.weight", norm: "output_attn_res_norm.weight" };
                Some(Box::new(LastChoice { choice: Choice::load(&at, names, c)? }) as Box<dyn Block>)
            }
        };
        Ok(Frame { exit, ..Frame::new(c, norm) })
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let (mixer, mlp) = (self.mixer(&w.at("self_attn"), c, layer)?, self.mlp(&w.at("mlp"), c, layer)?);
        let Some(size) = self.attn_res_block_size else {
            return Ok(Box::new(PreNormBlock::with(w, c, mixer, mlp)?));
        };
        let norm = |name: &str| Ok::<_, Error>(Norm::rms(&w.at(name), c.hidden_size, c.rms_norm_eps()?)?);
        let of_mixer = ChoiceNames { proj: "self_attention_res_proj.weight", norm: "self_attention_res_norm.weight" };
        let of_mlp = ChoiceNames { proj: "mlp_res_proj.weight", norm: "mlp_res_norm.weight" };
        Ok(Box::new(ChoosingBlock {
            input_layernorm: norm("input_layernorm")?,
            self_attn: mixer,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp,
            of_mixer: Choice::load(w, of_mixer, c)?,
            of_mlp: Choice::load(w, of_mlp, c)?,
            begins: layer % size == 0,
        }))
    }
}

/// Rates of the decay as a row of one for each head; files may have more axes, and room for more heads.
fn rates(tensors: &mut Tensors, heads: i32) -> Result<()> {
    flatten(tensors, "A_log")?;
    for (_, array) in tensors.iter_mut().filter(|(name, array)| name.ends_with(".A_log") && array.dim(0) > heads) {
        *array = ops::split_at_indices(&*array, &[heads], 0)?.swap_remove(0);
    }
    Ok(())
}

/// Puts the projections of queries, keys and values of delta attention into one, and their filters.
fn fuse(tensors: &mut Tensors) -> Result<()> {
    for (tail, parts) in [("_conv.conv", &["weight"][..]), ("_proj", &["weight", "scales", "biases"])] {
        let first = format!(".q{tail}.weight");
        let paths: Vec<String> =
            tensors.keys().filter_map(|name| name.strip_suffix(&first)).map(str::to_owned).collect();
        for (path, part) in paths.iter().flat_map(|path| parts.iter().map(move |part| (path, part))) {
            let names = ["q", "k", "v"].map(|letter| join(path, &format!("{letter}{tail}.{part}")));
            if !names.iter().all(|name| tensors.contains_key(name)) {
                continue;
            }
            let arrays: Vec<Array> = names.iter().filter_map(|name| tensors.remove(name)).collect();
            tensors.insert(join(path, &format!("qkv{tail}.{part}")), ops::concatenate(&arrays, 0)?);
        }
    }
    Ok(())
}
