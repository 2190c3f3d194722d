//! Qwen3.5, the text model inside: Qwen3-Next with a projection for each part of a delta net, and experts in all layers or in none.
//!
//! Ports `mlx_lm/models/qwen3_5.py` @ 0.32.2. Source: the model cards of Qwen3.5. Unusual: tensors lie below `language_model`, even
//! those of files without a `text_config`. Images are not read. Differences: as for `qwen3_next`.

use super::qwen3_next::{self, AnyMixer, Hybrid};
use crate::blocks::delta_net::SplitDelta;
use crate::prelude::*;

pub(super) const ARCH: Architecture = Architecture::text_of(&["qwen3_5"], "language_model", |_| Ok(&TEXT), outer_rules);

/// The text model.
pub(super) const TEXT: Architecture = Architecture::decoder::<Config>(&["qwen3_5_text"]).defaults(|| {
    json!({
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "rms_norm_eps": 1e-6, "vocab_size": 151_936, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        "linear_num_value_heads": 64, "linear_num_key_heads": 16, "linear_key_head_dim": 192,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "attention_bias": false, "full_attention_interval": 4,
        "num_experts": 0, "num_experts_per_tok": 0, "shared_expert_intermediate_size": 0, "moe_intermediate_size": 0,
        "norm_topk_prob": true, "rope_theta": 1e5, "partial_rotary_factor": 0.25,
    })
});

/// What lies around the text: images are dropped, and everything else is put below `language_model`.
pub(super) fn outer_rules() -> Vec<Rule> {
    let below = |tensors: &mut Tensors| {
        let own = std::mem::take(tensors);
        let moved = |(name, array): (String, Array)| match name.starts_with("language_model.") {
            true => (name, array),
            false => (format!("language_model.{name}"), array),
        };
        tensors.extend(own.into_iter().map(moved));
        Ok(())
    };
    vec![
        Rule::Drop("vision_tower"),
        Rule::Drop("model.visual"),
        Rule::Rename("model.language_model.**", "language_model.model.**"),
        Rule::custom(below),
    ]
}

/// Qwen3.5 adds nothing to what it shares with Qwen3-Next.
#[derive(Debug, Deserialize)]
struct Config {
    /// All layers have experts, or none has.
    #[serde(default, rename = "decoder_sparse_step")]
    _decoder_sparse_step: serde_json::Value,
    #[serde(default)]
    mlp_only_layers: Vec<usize>,
    output_gate_type: Option<String>,
}

impl DecoderConfig for Config {
    fn check(&self, c: &Common) -> Result<()> {
        unsupported(c, "mlp_only_layers", !self.mlp_only_layers.is_empty())?;
        let is_other = |gate: &str| !["swish", "silu"].contains(&gate);
        unsupported(c, "output_gate_type", self.output_gate_type.as_deref().is_some_and(is_other))?;
        c.part::<Hybrid>()?.check(c)
    }

    fn rules(&self, _c: &Common) -> Result<Vec<Rule>> {
        let mut rules = qwen3_next::rules();
        rules.extend([
            Rule::Rename("**.mlp.experts.gate_up_proj", "**.mlp.switch_mlp.gate_up_proj.weight"),
            Rule::Halve { leaf: "**.mlp.switch_mlp.gate_up_proj", into: ["gate_proj", "up_proj"] },
            Rule::Rename("**.mlp.experts.down_proj", "**.mlp.switch_mlp.down_proj.weight"),
        ]);
        Ok(rules)
    }

    fn block(&self, w: &Weights, c: &Common, layer: usize) -> Result<Box<dyn Block>> {
        let hybrid: Hybrid = c.part()?;
        let mixer: AnyMixer = match hybrid.is_linear(c, layer)? {
            true => {
                let at = w.at("linear_attn");
                ("linear_attn", Box::new(SplitDelta::load(&at, c, hybrid.delta(&at, c, true)?)?))
            }
            false => ("self_attn", Box::new(hybrid.attention(&w.at("self_attn"), c)?)),
        };
        let mlp: Box<dyn FeedForward> = match hybrid.has_experts() {
            true => Box::new(hybrid.moe(&w.at("mlp"), c)?),
            false => Box::new(Mlp::of(&w.at("mlp"), c)?),
        };
        Hybrid::block(w, c, mixer, mlp)
    }

    fn mtp(&self) -> Option<MtpNames> {
        Some(qwen3_next::MTP)
    }

    fn mtp_block(&self, w: &Weights, c: &Common, _head: usize) -> Result<Box<dyn Block>> {
        Hybrid::mtp_block(w, c)
    }
}
