//! Folders with a `tokenizer.model` alone, against what sentencepiece 0.2 makes of the same models.
//!
//! The models in `fixtures/sentencepiece` were trained by `record.py` beside them.
#![cfg(feature = "text")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlxlm_core::text::{TextError, Tokenizer, TokenizerOptions};
use mlxlm_core::{Error, Result, io};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    vocab_size: usize,
    bos: i64,
    eos: i64,
    unk: i64,
    pad: i64,
    texts: Vec<Words>,
}

#[derive(Deserialize)]
struct Words {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece").join(name)
}

fn load(model: &[u8], config: &str) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    io::write(folder.path().join("tokenizer.model"), model).unwrap();
    io::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    Tokenizer::from_folder(folder.path(), &TokenizerOptions::default())
}

fn check(name: &str) {
    let expected: BTreeMap<String, Expected> = io::read_json(fixture("expected.json")).unwrap();
    let expected = &expected[name];
    let tokenizer = load(&io::read(fixture(&format!("{name}.model"))).unwrap(), "{}").unwrap();
    assert_eq!(tokenizer.vocab_size(), expected.vocab_size);
    for (token, id) in [
        ("bos_token", expected.bos),
        ("eos_token", expected.eos),
        ("unk_token", expected.unk),
        ("pad_token", expected.pad),
    ] {
        assert_eq!(tokenizer.special_token_id(token), u32::try_from(id).ok(), "{token}");
    }
    for case in &expected.texts {
        // sentencepiece itself does not look for control tokens in a text, but tokenizers do.
        if name == "unigram" && case.text.contains("<|im_end|>") {
            continue;
        }
        // A text that starts with a space gets no second one, nor a special token one, as in transformers.
        let spaced = name == "bpe" && (case.text.starts_with(' ') || case.text.starts_with("<|im_start|>"));
        let expected_ids = &case.ids[usize::from(spaced)..];
        let ids = tokenizer.encode(&case.text, false).unwrap();
        assert_eq!(ids, expected_ids, "{name}: {:?}", case.text);
        // An unknown token has a sign of its own in sentencepiece.
        if !case.ids.contains(&u32::try_from(expected.unk).unwrap()) {
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded, "{name}: {:?}", case.text);
        }
    }
}

#[test]
fn bpe_with_bytes() {
    check("bpe");
}

#[test]
fn unigram_with_rules() {
    check("unigram");
}

#[test]
fn bpe_without_a_space_in_front() {
    check("bpe_plain");
}

#[test]
fn the_folder_says_whether_texts_get_start_and_end() {
    let model = io::read(fixture("bpe.model")).unwrap();
    let ids = |config: &str| load(&model, config).unwrap().encode("a", true).unwrap();
    let plain = ids("{}");
    assert_eq!(ids(r#"{"add_bos_token": true}"#), [&[1], plain.as_slice()].concat());
    assert_eq!(ids(r#"{"add_bos_token": true, "add_eos_token": true}"#), [&[1], plain.as_slice(), &[2]].concat());
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let model = io::read(fixture("bpe.model")).unwrap();
    let long_piece = [[0x0a, 0x83, 0x05, 0x0a, 0x80, 0x05].as_slice(), &[b'a'; 643], &[0x12, 2, 0x18, 2]].concat();
    for bytes in [
        b"".as_slice(),
        b"IQ== 0\nIg== 1\n",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x12\x02\x18\x03",
        &model[..5000],
        &long_piece,
    ] {
        let error = load(bytes, "{}").unwrap_err();
        assert!(matches!(error, Error::Text(TextError::BadTokenizer { .. })), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged model loads or is refused.
    #[test]
    fn a_damaged_model_does_no_harm(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut model = io::read(fixture("unigram.model")).unwrap();
        let at = at.index(model.len());
        model[at] = byte;
        if let Ok(tokenizer) = load(&model, "{}") {
            let _ = tokenizer.encode("some text", false);
        }
    }
}
