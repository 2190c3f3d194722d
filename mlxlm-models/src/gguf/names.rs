//! From the names of tensors in GGUF to those of the original checkpoint.

use super::family::Family;

/// Tensors outside the blocks.
const OUTSIDE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Parts of a block that most architectures share.
const PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Tensors that become entries of the configuration.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
pub(super) const ROPE_LONG: &str = "rope_factors_long.weight";
pub(super) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// Whether a tensor is no weight.
pub(super) fn is_of_config(name: &str) -> bool {
    [ROPE_FREQS, ROPE_LONG, ROPE_SHORT].contains(&name)
}

/// The path of a tensor and its leaf, `weight` or `bias`, in the checkpoint; nothing for a name that is not known.
pub(super) fn path_and_leaf<'n>(name: &'n str, family: &Family) -> Option<(String, &'n str)> {
    let (path, leaf) = name.rsplit_once('.').filter(|(_, leaf)| ["weight", "bias"].contains(leaf))?;
    if let Some((_, outside)) = OUTSIDE.iter().find(|(own, _)| *own == path) {
        return Some(((*outside).to_owned(), leaf));
    }
    let (layer, part) = path.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (part, expert) = match part.split_once('.') {
        Some((part, expert)) => (format!("{part}.*"), expert.parse::<u32>().ok().map(|expert| expert.to_string())?),
        None => (part.to_owned(), String::new()),
    };
    let (_, theirs) = family.parts.iter().chain(&PARTS).find(|(own, _)| *own == part)?;
    Some((format!("model.layers.{layer}.{}", theirs.replace('*', &expert)), leaf))
}

/// The name in GGUF of a path of the checkpoint, for parts that most architectures share.
pub(super) fn in_gguf(path: &str) -> Option<String> {
    if let Some((own, _)) = OUTSIDE.iter().find(|(_, outside)| *outside == path) {
        return Some((*own).to_owned());
    }
    let (layer, part) = path.strip_prefix("model.layers.")?.split_once('.')?;
    let (own, _) = PARTS.iter().find(|(_, theirs)| *theirs == part)?;
    Some(format!("blk.{layer}.{own}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlxlm_core::weights::gguf::{Metadata, Value};

    fn check(architecture: &str, name: &str, expected: Option<&str>) {
        let entries = [("general.architecture".to_owned(), Value::Text(architecture.to_owned()))];
        let family = Family::of(&Metadata::new("a.gguf", entries.into())).unwrap();
        let found = path_and_leaf(name, family).map(|(path, leaf)| format!("{path}.{leaf}"));
        assert_eq!(found.as_deref(), expected, "{name}");
    }

    #[test]
    fn names_are_those_of_the_checkpoint() {
        check("llama", "token_embd.weight", Some("model.embed_tokens.weight"));
        check("qwen2", "blk.11.attn_q.bias", Some("model.layers.11.self_attn.q_proj.bias"));
        check("llama", "blk.0.ffn_norm.weight", Some("model.layers.0.post_attention_layernorm.weight"));
        check("gemma2", "blk.0.ffn_norm.weight", Some("model.layers.0.pre_feedforward_layernorm.weight"));
        check("llama", "blk.1.ffn_up.7.weight", Some("model.layers.1.block_sparse_moe.experts.7.w3.weight"));
        check("phi3", "blk.1.ffn_up.weight", Some("model.layers.1.mlp.gate_up_proj.weight"));
    }

    #[test]
    fn other_names_are_not_known() {
        for name in ["blk.x.attn_q.weight", "blk.1.ffn_up.x.weight", "blk.1.attn_q", "blk.1.ssm_a.weight", "a.weight"] {
            check("llama", name, None);
        }
        check("qwen2", "blk.1.ffn_up.7.weight", None);
    }
}
