//! Tokenizers, streaming detokenizers and chat prompts against what Python mlx-lm 0.32.2 makes of the same folders.
//!
//! The folders in `fixtures/tokenizer` hold small trained tokenizers of every kind, with `cases.json`.
#![cfg(feature = "text")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use mlxlm_core::text::{TemplateOptions, Tokenizer, TokenizerOptions};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    vocab_size: usize,
    eos_token_ids: Vec<u32>,
    bos_token_id: Option<u32>,
    think: (Option<String>, Option<String>),
    strings: Vec<Word>,
    streams: Vec<Line>,
    chat: Vec<Chat>,
}

#[derive(Deserialize)]
struct Word {
    name: String,
    text: String,
    ids: Vec<u32>,
    ids_plain: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
    stream: Streamed,
}

#[derive(Deserialize)]
struct Line {
    name: String,
    ids: Vec<u32>,
    decoded: String,
    stream: Streamed,
}

#[derive(Deserialize)]
struct Streamed {
    segments: Vec<String>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<serde_json::Value>,
    add_generation_prompt: bool,
    prompt: String,
    ids: Vec<u32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name)
}

/// Streams ids and checks the text against the tokenizer's own (`decoded`). The reference's segments say how soon text
/// must come: where its text so far is right, this one is as long. Where the reference differs from its own tokenizer
/// (leading spaces, byte 0, rows of bytes that are no characters, spaces after new lines), the tokenizer decides.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32], decoded: &str, reference: &Streamed, place: &str) {
    let mut detokenizer = tokenizer.detokenizer();
    for round in 0..2 {
        let (mut text, mut reference_so_far) = (String::new(), String::new());
        for (&id, segment) in ids.iter().zip(&reference.segments) {
            detokenizer.add_token(id);
            text += &detokenizer.last_segment();
            reference_so_far += segment;
            assert!(decoded.starts_with(&text), "{place}, round {round}: {text:?} of {decoded:?}");
            // Bytes in a row belong together: their characters come with the token after them.
            let in_row = tokenizer.id_to_token(id).is_some_and(|token| token.starts_with("<0x"));
            if decoded.starts_with(&reference_so_far) && !in_row {
                assert!(text.len() >= reference_so_far.len(), "{place}: {text:?} is behind {reference_so_far:?}");
            }
        }
        detokenizer.finalize();
        text += &detokenizer.last_segment();
        assert_eq!(text, decoded, "{place}");
        assert_eq!(detokenizer.text(), decoded, "{place}");
        assert_eq!(detokenizer.tokens(), ids, "{place}");
        detokenizer.reset();
        assert!(detokenizer.text().is_empty() && detokenizer.tokens().is_empty());
    }
}

fn check(name: &str) {
    let folder = folder(name);
    let cases: Cases = mlxlm_core::io::read_json(folder.join("cases.json")).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder, &TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.vocab_size(), cases.vocab_size);
    assert_eq!(tokenizer.eos_token_ids().iter().copied().collect::<Vec<_>>(), cases.eos_token_ids);
    assert_eq!(tokenizer.special_token_id("bos_token"), cases.bos_token_id);
    let thinking = tokenizer.thinking().map(|t| (Some(t.start.clone()), Some(t.end.clone())));
    assert_eq!(thinking.unwrap_or_default(), cases.think);
    for case in &cases.strings {
        let place = format!("{name}: {}", case.name);
        assert_eq!(tokenizer.encode(&case.text, true).unwrap(), case.ids, "{place}");
        assert_eq!(tokenizer.encode(&case.text, false).unwrap(), case.ids_plain, "{place}");
        assert_eq!(tokenizer.decode(&case.ids_plain).unwrap(), case.decoded, "{place}");
        let without = tokenizer.decode_without_special_tokens(&case.ids_plain).unwrap();
        assert_eq!(without, case.decoded_skip_special, "{place}");
        check_stream(&tokenizer, &case.ids_plain, &case.decoded, &case.stream, &place);
    }
    for case in &cases.streams {
        let place = format!("{name}: {}", case.name);
        assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded, "{place}");
        check_stream(&tokenizer, &case.ids, &case.decoded, &case.stream, &place);
    }
    for case in &cases.chat {
        let options =
            TemplateOptions { add_generation_prompt: case.add_generation_prompt, ..TemplateOptions::default() };
        assert_eq!(tokenizer.apply_chat_template(&case.messages, &options).unwrap(), case.prompt);
        assert_eq!(tokenizer.encode_chat(&case.messages, &options).unwrap(), case.ids);
    }
}

#[test]
fn byte_level_bpe_as_in_gpt2() {
    check("bpe_gpt2");
}

#[test]
fn byte_level_bpe_as_in_llama3() {
    check("bpe_llama3");
}

#[test]
fn sentencepiece_as_in_llama2() {
    check("spm_llama2");
}

#[test]
fn sentencepiece_as_in_gemma() {
    check("spm_gemma");
}

#[test]
fn unigram() {
    check("unigram");
}
