//! What transformers 5 makes of a tokenizer whose class is `LlamaTokenizer`.
//!
//! It keeps the vocabulary of `tokenizer.json` and builds the steps around it anew, which changes where a text gets its
//! first `▁`: at its start, but no more after each special token. A Llama 2 prompt has other tokens by that, so mlxlm
//! does the same. Other classes that transformers rebuilds (Gemma, Qwen 2, Cohere, …) come out as their files say.
//!
//! Reference: `LlamaTokenizer` and `AutoTokenizer.from_pretrained` of transformers 5.23.

use serde_json::{Map, Value};
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{DecoderWrapper, NormalizerWrapper, Tokenizer, decoders};

/// Model types whose `tokenizer.json` transformers takes as it is, whatever class the folder names.
const TAKEN_AS_THEY_ARE: [&str; 35] = [
    "ernie4_5",
    "ernie4_5_moe",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt_bigcode",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "internlm2",
    "internlm3",
    "iquestcoder",
    "jamba",
    "kimi_k25",
    "kimi_linear",
    "llava",
    "mimo_v2_flash",
    "minicpm3",
    "minimax_m2",
    "ministral3",
    "mistral",
    "mistral3",
    "mixtral",
    "nemotron",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "phi3",
    "phimoe",
    "pixtral",
    "qwen2",
    "qwen3_5",
    "qwen3_5_moe",
    "stablelm",
];

/// Names that the class gives to tokens where the folder does not.
pub(crate) const DEFAULT_NAMES: [(&str, &str); 3] =
    [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];

/// Whether the class applies: the folder names it, and neither the model type nor a byte-level vocabulary overrules it.
pub(crate) fn applies(class: Option<&str>, model_type: Option<&str>, byte_level: bool) -> bool {
    let named = class.is_some_and(|class| class.trim_end_matches("Fast") == "LlamaTokenizer");
    named && !byte_level && !model_type.is_some_and(|name| TAKEN_AS_THEY_ARE.contains(&name))
}

/// The two settings of the class that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LlamaClass {
    /// `▁` goes before every piece between special tokens, not only before the first.
    legacy: bool,
    add_prefix_space: bool,
}

impl LlamaClass {
    /// Reads the settings from `tokenizer_config.json`.
    pub(crate) fn of(config: &Map<String, Value>) -> Self {
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        Self { legacy: flag("legacy").unwrap_or(false), add_prefix_space: flag("add_prefix_space").unwrap_or(true) }
    }

    /// Replaces the steps around the vocabulary, if it is one that is merged.
    pub(crate) fn rebuild(self, tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
        if !matches!(tokenizer.get_model(), tokenizers::ModelWrapper::BPE(_)) {
            return Ok(());
        }
        let scheme = match self {
            Self { add_prefix_space: false, .. } => PrependScheme::Never,
            Self { legacy: true, .. } => PrependScheme::Always,
            Self { legacy: false, .. } => PrependScheme::First,
        };
        let mut steps: Vec<DecoderWrapper> = vec![
            Replace::new("▁", " ")?.into(),
            decoders::byte_fallback::ByteFallback::new().into(),
            decoders::fuse::Fuse::new().into(),
        ];
        if self.add_prefix_space {
            steps.push(decoders::strip::Strip::new(' ', 1, 0).into());
        }
        tokenizer.with_normalizer(None::<NormalizerWrapper>);
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        tokenizer.with_decoder(Some(decoders::sequence::Sequence::new(steps)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_the_class_applies() {
        let llama = Some("LlamaTokenizer");
        for (class, model_type, byte_level, expected) in [
            (llama, Some("llama"), false, true),
            (Some("LlamaTokenizerFast"), None, false, true),
            (llama, Some("mistral"), false, false),
            (llama, Some("llama"), true, false),
            (Some("GemmaTokenizer"), Some("llama"), false, false),
            (None, Some("llama"), false, false),
        ] {
            assert_eq!(applies(class, model_type, byte_level), expected, "{class:?} {model_type:?}");
        }
        assert!(TAKEN_AS_THEY_ARE.is_sorted());
    }
}
