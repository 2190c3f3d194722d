//! Small tokenizers from metadata. Real ones are compared with llama.cpp's own results by `cargo xtask test --real`.

use mlxlm_core::text::{GgufTokenizer, TemplateOptions, Tokenizer, TokenizerOptions};
use mlxlm_core::weights::gguf::{Metadata, Value};
use serde_json::json;

fn metadata(entries: &[(&str, Value)]) -> Metadata {
    let entries = entries.iter().map(|(key, value)| (format!("tokenizer.{key}"), value.clone()));
    Metadata::new("a.gguf", entries.collect())
}

fn texts(texts: &[&str]) -> Value {
    Value::Texts(texts.iter().map(|&text| text.to_owned()).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn load(metadata: &Metadata) -> Tokenizer {
    GgufTokenizer::from_metadata(metadata).unwrap().load(&TokenizerOptions::default()).unwrap()
}

/// Bytes with two merges, and ChatML.
fn bytes() -> Vec<(&'static str, Value)> {
    vec![
        ("ggml.model", text("gpt2")),
        ("ggml.pre", text("smollm")),
        ("ggml.tokens", texts(&["a", "b", "Ġ", "1", "ab", "Ġab", "<|im_start|>", "<|im_end|>", "<tool>", "<s>"])),
        ("ggml.token_type", Value::Integers(vec![1, 1, 1, 1, 1, 1, 3, 3, 4, 3])),
        ("ggml.merges", texts(&["a b", "Ġ ab", "x y"])),
        ("ggml.eos_token_id", Value::Integer(9)),
        ("chat_template", text("{{ messages[0].content }}{{ eos_token }}")),
    ]
}

#[test]
fn bytes_are_merged_after_the_splits() {
    let tokenizer = load(&metadata(&bytes()));
    let encode = |text: &str| tokenizer.encode(text, true).unwrap();
    assert_eq!(encode("ab ab11"), [4, 5, 3, 3]);
    assert_eq!(encode("<|im_start|>a<tool><|im_end|>"), [6, 0, 8, 7]);
    assert_eq!(tokenizer.decode(&[4, 5, 3, 7]).unwrap(), "ab ab1<|im_end|>");
    assert_eq!(tokenizer.decode_without_special_tokens(&[5, 8, 7]).unwrap(), " ab<tool>");
    // The end of a turn counts too, whatever the metadata says.
    assert!(tokenizer.eos_token_ids().iter().eq(&[7, 9]));
    let messages = [json!({"role": "user", "content": "b"})];
    assert_eq!(tokenizer.apply_chat_template(&messages, &TemplateOptions::default()).unwrap(), "b<s>");
}

#[test]
fn templates_may_have_names() {
    let mut entries = bytes();
    entries.push(("chat_templates", texts(&["tool_use"])));
    entries.push(("chat_template.tool_use", text("tools")));
    let folder = tempfile::tempdir().unwrap();
    GgufTokenizer::from_metadata(&metadata(&entries)).unwrap().write(folder.path()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path(), &TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.chat_template(), Some("{{ messages[0].content }}{{ eos_token }}"));
    let options = TemplateOptions { template: Some("tool_use".into()), ..TemplateOptions::default() };
    assert_eq!(tokenizer.apply_chat_template(&[json!({"role": "user", "content": ""})], &options).unwrap(), "tools");
    assert_eq!(tokenizer.encode("ab", true).unwrap(), load(&metadata(&entries)).encode("ab", true).unwrap());
    assert!(tokenizer.eos_token_ids().iter().eq(&[7, 9]));
}

/// Pieces with scores: `▁ab` is made of `▁` and `ab`, because `ab` has the better score than `▁a`.
fn pieces() -> Vec<(&'static str, Value)> {
    vec![
        ("ggml.model", text("llama")),
        (
            "ggml.tokens",
            texts(&["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA4>", "▁", "a", "b", "▁ab", "ab", "▁a", "  "]),
        ),
        ("ggml.scores", Value::Floats(vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -3.0, -1.0, -2.0, -1000.0])),
        ("ggml.token_type", Value::Integers(vec![2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 4])),
        ("ggml.bos_token_id", Value::Integer(1)),
        ("ggml.eos_token_id", Value::Integer(2)),
        ("ggml.unknown_token_id", Value::Integer(0)),
    ]
}

#[test]
fn pieces_are_merged_by_score_and_other_characters_are_bytes() {
    let tokenizer = load(&metadata(&pieces()));
    let encode = |text: &str| tokenizer.encode(text, false).unwrap();
    assert_eq!(encode("ab"), [9]);
    assert_eq!(encode("aba"), [9, 7]);
    assert_eq!(encode("ä\n"), [6, 4, 5, 3]);
    assert_eq!(encode("a  b"), [11, 12, 6, 8]);
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 9]);
    assert_eq!(tokenizer.decode(&[9, 6, 4, 5, 9]).unwrap(), "ab ä ab");
    // Without the space in front, the first piece has none.
    let mut entries = pieces();
    entries.push(("ggml.add_space_prefix", Value::Bool(false)));
    entries.push(("ggml.add_bos_token", Value::Bool(false)));
    assert_eq!(load(&metadata(&entries)).encode("ab ab", true).unwrap(), [10, 9]);
}

#[test]
fn words_are_found_in_pieces() {
    let entries = [
        ("ggml.model", text("bert")),
        ("ggml.tokens", texts(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁play", "ing", "▁."])),
        ("ggml.token_type", Value::Integers(vec![3, 3, 3, 3, 1, 1, 1])),
        ("ggml.unknown_token_id", Value::Integer(1)),
        ("ggml.cls_token_id", Value::Integer(2)),
        ("ggml.seperator_token_id", Value::Integer(3)),
    ];
    let tokenizer = load(&metadata(&entries));
    assert_eq!(tokenizer.encode("Playing.", true).unwrap(), [2, 4, 5, 6, 3]);
    assert_eq!(tokenizer.encode("playx", false).unwrap(), [1]);
}

#[test]
fn nonsense_is_named() {
    let check = |base: Vec<(&'static str, Value)>, key: &'static str, value: Option<Value>, expected: &str| {
        let mut entries: Vec<_> = base.into_iter().filter(|(own, _)| *own != key).collect();
        entries.extend(value.map(|value| (key, value)));
        let error = GgufTokenizer::from_metadata(&metadata(&entries)).unwrap_err().to_string();
        assert_eq!(error, format!("`tokenizer.{key}` in the metadata of `a.gguf` {expected}"));
    };
    let known = "and the tokenizers that are read are gpt2, llama, gemma4 and bert";
    check(bytes(), "ggml.model", Some(text("t5")), &format!("is `t5`, {known}"));
    check(bytes(), "ggml.model", None, "is missing");
    check(bytes(), "ggml.model", Some(Value::Integer(1)), "is not a string");
    check(bytes(), "ggml.pre", Some(text("new")), "is `new`, a way to split texts that is not known");
    check(bytes(), "ggml.tokens", Some(texts(&[])), "is missing or empty");
    check(bytes(), "ggml.token_type", Some(Value::Integers(vec![1])), "has 1 elements for 10 tokens");
    check(bytes(), "ggml.token_type", Some(Value::Integers(vec![7; 10])), "has 7, expected 1 to 6");
    check(bytes(), "ggml.merges", None, "is missing");
    check(bytes(), "ggml.merges", Some(texts(&["ab"])), "has `ab`, which is no pair");
    check(bytes(), "ggml.eos_token_id", Some(Value::Integer(10)), "is 10, and the vocabulary has 10 tokens");
    check(bytes(), "ggml.eos_token_id", Some(Value::Integer(-1)), "is -1, and the vocabulary has 10 tokens");
    check(pieces(), "ggml.scores", Some(Value::Floats(vec![0.0])), "has 1 elements for 13 tokens");
    check(pieces(), "ggml.scores", None, "is missing");
}
