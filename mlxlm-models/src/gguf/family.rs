//! What is known of each `general.architecture`.

use mlxlm_core::weights::gguf::Metadata;
use serde_json::{Map, Value};

use super::config::{self, Source};
use crate::Result;

/// An architecture as GGUF knows it.
#[derive(Debug)]
pub(super) struct Family {
    /// Its name in `general.architecture`, with which the keys of its numbers begin.
    pub(super) name: &'static str,
    /// The parts of a block that are not those of all: the name in the file, and that in the checkpoint.
    pub(super) parts: &'static [(&'static str, &'static str)],
    /// Whether the rows of queries and keys are permuted.
    pub(super) permuted: bool,
    /// Whether one was added to the weights of norms.
    pub(super) one_added: bool,
    /// Whether its activations go beyond what 16-bit floats with 5 bits of exponent can hold.
    pub(super) large: bool,
    /// What it adds to the entries of all.
    pub(super) config: fn(&Source, &mut Map<String, Value>) -> Result<()>,
}

impl Family {
    const fn new(name: &'static str, config: fn(&Source, &mut Map<String, Value>) -> Result<()>) -> Self {
        Self { name, parts: &[], permuted: false, one_added: false, large: false, config }
    }

    /// The architecture that the metadata names.
    pub(super) fn of(metadata: &Metadata) -> Result<&'static Self> {
        let key = "general.architecture";
        let Some(name) = metadata.text(key)? else { return Err(metadata.wrong(key, "is missing").into()) };
        ALL.iter().find(|family| family.name == name).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|family| family.name).collect();
            metadata
                .wrong(key, format!("is `{name}`; the architectures that are known are {}", known.join(", ")))
                .into()
        })
    }
}

/// All architectures, sorted by name.
static ALL: &[Family] = &[
    Family { parts: GEMMA_NORMS, one_added: true, large: true, ..Family::new("gemma2", config::gemma2) },
    Family { parts: GEMMA_NORMS, one_added: true, large: true, ..Family::new("gemma3", config::gemma3) },
    Family { parts: MIXTRAL_EXPERTS, permuted: true, ..Family::new("llama", config::llama) },
    Family { parts: PHI_FUSED, ..Family::new("phi3", config::phi3) },
    Family::new("qwen2", |_, c| config::model_type(c, "qwen2")),
    Family::new("qwen3", |_, c| config::model_type(c, "qwen3")),
    Family { parts: QWEN_EXPERTS, ..Family::new("qwen3moe", config::qwen3_moe) },
];

/// Gemma has norms before and after each half of a block.
const GEMMA_NORMS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const MIXTRAL_EXPERTS: &[(&str, &str)] = &[
    ("ffn_gate_inp", "block_sparse_moe.gate"),
    ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
    ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
    ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
    // Older files have a tensor for each expert.
    ("ffn_gate.*", "block_sparse_moe.experts.*.w1"),
    ("ffn_down.*", "block_sparse_moe.experts.*.w2"),
    ("ffn_up.*", "block_sparse_moe.experts.*.w3"),
];

const QWEN_EXPERTS: &[(&str, &str)] = &[
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
];

const PHI_FUSED: &[(&str, &str)] = &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ARCHITECTURES;

    #[test]
    fn architectures_are_sorted() {
        assert!(ALL.iter().map(|family| family.name).is_sorted());
    }

    #[test]
    fn each_is_one_that_can_be_loaded() {
        for family in ALL {
            let model_type = match family.name {
                "gemma3" => "gemma3_text",
                "qwen3moe" => "qwen3_moe",
                name => name,
            };
            assert!(ARCHITECTURES.iter().any(|arch| arch.names.contains(&model_type)), "{model_type}");
        }
    }
}
