//! The files of a model folder beside the weights, as `transformers` and mlx-lm read them.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::chat::{CHAT_TEMPLATE, END_OF_TEXT, TURN};
use super::tokenizer::{MARKS, VOCABULARY};

/// One of the two models.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
}

const HEAD_DIM: usize = 32;

/// The model one talks to (6.4 million parameters), and the one that drafts for it (1.0 million).
///
/// All widths are multiples of 64, so that every matrix quantizes in groups of 64.
pub(crate) const SIZES: [Size; 2] = [
    Size { name: "demo", hidden: 256, layers: 5, heads: 8, kv_heads: 4, intermediate: 640 },
    Size { name: "demo-draft", hidden: 128, layers: 2, heads: 4, kv_heads: 2, intermediate: 384 },
];

impl Size {
    fn config(self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": true,
            "bos_token_id": null,
            "eos_token_id": id_of(TURN.1),
            "pad_token_id": id_of(END_OF_TEXT),
            "torch_dtype": "float32",
        })
    }

    #[cfg(test)]
    fn parameters(self) -> usize {
        let Self { hidden, layers, heads, kv_heads, intermediate, .. } = self;
        let attention = 2 * hidden * HEAD_DIM * (heads + kv_heads);
        let block = attention + 3 * hidden * intermediate + 2 * hidden;
        VOCABULARY * hidden + layers * block + hidden
    }
}

/// Writes everything but the weights of a model of `size` into `folder`.
pub(crate) fn write(folder: &Path, size: Size, tokenizer: &Tokenizer) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    let tokenizer = tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))?;
    let files = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", pretty(&tokenizer_config())),
        ("config.json", pretty(&size.config())),
        ("generation_config.json", pretty(&generation_config())),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}

fn id_of(mark: &str) -> Option<usize> {
    MARKS.iter().position(|(known, _)| *known == mark)
}

fn tokenizer_config() -> Value {
    let added = MARKS.iter().enumerate().map(|(id, (mark, special))| {
        let token = json!({
            "content": mark,
            "lstrip": false,
            "normalized": false,
            "rstrip": false,
            "single_word": false,
            "special": special,
        });
        (id.to_string(), token)
    });
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added.collect::<serde_json::Map<_, _>>(),
        "bos_token": null,
        "eos_token": TURN.1,
        "pad_token": END_OF_TEXT,
        "unk_token": null,
        "clean_up_tokenization_spaces": false,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    })
}

fn generation_config() -> Value {
    json!({"eos_token_id": [id_of(TURN.1), id_of(END_OF_TEXT)], "pad_token_id": id_of(END_OF_TEXT)})
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::corpus::documents;
    use crate::demo::tokenizer::train;

    #[test]
    fn the_draft_model_is_four_to_eight_times_smaller() {
        let [large, small] = SIZES.map(Size::parameters);
        assert_eq!(large, 3_967_744);
        assert!((4..8).contains(&(large / small)), "{large} {small}");
    }

    #[test]
    fn a_folder_holds_what_loaders_look_for() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = train(&documents(0, 100)).unwrap();
        write(folder.path(), SIZES[0], &tokenizer).unwrap();
        let read = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
        };
        assert_eq!(read("config.json")["eos_token_id"], 2);
        assert_eq!(read("generation_config.json")["eos_token_id"], json!([2, 0]));
        let template = read("tokenizer_config.json")["chat_template"].as_str().unwrap().to_owned();
        // What mlx-lm looks for to choose the `json_tools` parser.
        assert!(template.contains("<tool_call>") && template.contains("tool_call.name"));
        let added = &read("tokenizer.json")["added_tokens"];
        for (id, (mark, special)) in MARKS.iter().enumerate() {
            assert_eq!((&added[id]["content"], &added[id]["special"]), (&json!(mark), &json!(special)));
        }
    }
}
