//! Streamed text is decoded text: for generated tokenizers with every decoder, against the `tokenizers` crate, and for the
//! tokenizers in `fixtures/tokenizer`.
#![cfg(feature = "text")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Tokens that mean something to one decoder or another; a generated vocabulary has them besides random ones.
const TOKENS: [&str; 40] = [
    "<0xE6>", "<0x97>", "<0xA5>", "<0x41>", "<0xFF>", "<0x0A>", "<0x20>", "<0x+A>", "<0x4", "▁", "▁▁", "▁a", "a▁b",
    "Ġ", "Ġa", "Ċ", "æĹ", "¥", "æ", "Ā", "##b", "##", "a</w>", "</w>b", "b", "|", "<pad>", "do", " do not", ".", ",",
    "'", "n't", " 's", "<n>", "<", "日", "😀", " ", "  a ",
];

/// A tokenizer whose tokens have the even ids from 0; the added ones come after them.
#[derive(Clone, Debug)]
struct Made {
    content: Value,
    added: Vec<(String, bool)>,
    tokens: usize,
    clean_up: bool,
}

impl Made {
    fn new(decoder: &Value, random: &[String], added: Vec<(String, bool)>, clean_up: bool) -> Self {
        let mut vocab = Map::new();
        for token in TOKENS.iter().copied().chain(random.iter().map(String::as_str)) {
            let id = 2 * vocab.len();
            vocab.entry(token).or_insert_with(|| id.into());
        }
        let tokens = vocab.len();
        let mut added: Vec<(String, bool)> =
            added.into_iter().filter(|(token, _)| !vocab.contains_key(token)).collect();
        added.sort();
        added.dedup_by(|a, b| a.0 == b.0);
        for (number, (token, _)) in added.iter().enumerate() {
            vocab.insert(token.clone(), (2 * (tokens + number)).into());
        }
        let added_tokens: Vec<Value> = added
            .iter()
            .map(|(token, special)| {
                json!({"id": vocab[token], "content": token, "special": special, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false})
            })
            .collect();
        let content = json!({"version": "1.0", "added_tokens": added_tokens, "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "b"}});
        Self { content, added, tokens, clean_up }
    }

    fn load(&self) -> Tokenizer {
        let config = json!({"clean_up_tokenization_spaces": self.clean_up}).as_object().unwrap().clone();
        let options = TokenizerOptions { config, ..TokenizerOptions::default() };
        Tokenizer::from_json("generated", &self.content, &options).unwrap()
    }

    /// What the crate makes of ids: nothing where it panics, or where it takes an added token for bytes.
    fn expected(&self, ids: &[u32]) -> Option<String> {
        let in_bytes = self.content["decoder"].to_string().contains("ByteLevel");
        let is_byte_letters = |id: &u32| {
            let added = (*id as usize / 2).checked_sub(self.tokens).and_then(|number| self.added.get(number));
            added.is_some_and(|(token, _)| !token.is_ascii())
        };
        if in_bytes && ids.iter().any(is_byte_letters) {
            return None;
        }
        let bytes = self.content.to_string();
        let decode = || tokenizers::Tokenizer::from_bytes(&bytes).unwrap().decode(ids, false).unwrap();
        let mut text = catch_unwind(AssertUnwindSafe(decode)).ok()?;
        for spaced in if self.clean_up {
            [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"].as_slice()
        } else {
            &[]
        } {
            text = text.replace(spaced, spaced.trim());
        }
        Some(text)
    }
}

/// Streams ids; every piece must go on where the text so far ended, and all of them be the decoded text.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, TestCaseError> {
    let decoded = tokenizer.decode(ids).unwrap();
    let mut detokenizer = tokenizer.detokenizer();
    let mut pieces = Vec::new();
    for &id in ids {
        detokenizer.add_token(id);
        pieces.push(detokenizer.last_segment());
        let so_far = pieces.concat();
        prop_assert_eq!(detokenizer.text(), &so_far);
        prop_assert!(decoded.starts_with(&so_far), "{:?} of {:?}", pieces, decoded);
    }
    detokenizer.finalize();
    pieces.push(detokenizer.last_segment());
    prop_assert_eq!(pieces.concat(), decoded.clone());
    Ok(decoded)
}

fn step() -> impl Strategy<Value = Value> {
    let one_of = proptest::sample::select::<&str>;
    let replace = (one_of(vec!["▁", "a", "ab", " .", "aa", "<n>", "日", "abab"]), "[a ]{0,2}")
        .prop_map(|(pattern, content)| json!({"type": "Replace", "pattern": {"String": pattern}, "content": content}));
    let regex = (one_of(vec!["a+", r"\s", "[▁.]", "b$", "^a|c*"]), "[x ]{0,2}")
        .prop_map(|(pattern, content)| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content}));
    let strip = ("[ a]", 0..3, 0..2)
        .prop_map(|(content, start, stop)| json!({"type": "Strip", "content": content, "start": start, "stop": stop}));
    let meta = ("[▁_]", "always|first|never").prop_map(|(replacement, scheme)| {
        json!({"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": true})
    });
    let words = any::<bool>().prop_map(|cleanup| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup}));
    let ctc = any::<bool>().prop_map(
        |cleanup| json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup}),
    );
    let suffix = "(</w>)?".prop_map(|suffix| json!({"type": "BPEDecoder", "suffix": suffix}));
    let bytes = Just(json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}));
    prop_oneof![
        3 => replace,
        1 => regex,
        2 => strip,
        2 => meta,
        1 => words,
        1 => ctc,
        1 => suffix,
        1 => bytes,
        2 => Just(json!({"type": "ByteFallback"})),
        2 => Just(json!({"type": "Fuse"})),
    ]
}

fn decoder() -> impl Strategy<Value = Value> {
    let llama = any::<bool>().prop_map(|strips| {
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        steps.extend(strips.then_some(strip));
        json!({"type": "Sequence", "decoders": steps})
    });
    let several = vec(step(), 0..5).prop_map(|steps| json!({"type": "Sequence", "decoders": steps}));
    prop_oneof![2 => llama, 4 => step(), 4 => several, 1 => Just(Value::Null)]
}

fn made() -> impl Strategy<Value = Made> {
    let random = vec("[abn▁ ĠĊ.,!'æĹ¥#|/wõđč]{1,4}", 0..8);
    let added = vec(("[ab <>|▁õčđĀ.]{1,4}|<\\|end\\|>| x|\n", any::<bool>()), 0..5);
    (decoder(), random, added, any::<bool>())
        .prop_map(|(decoder, random, added, clean_up)| Made::new(&decoder, &random, added, clean_up))
}

/// The tokenizers of the fixtures, loaded once.
fn fixtures() -> &'static [(&'static str, Tokenizer)] {
    static ALL: OnceLock<Vec<(&str, Tokenizer)>> = OnceLock::new();
    ALL.get_or_init(|| {
        ["bpe_gpt2", "bpe_llama3", "spm_llama2", "spm_gemma", "unigram"]
            .map(|name| {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name);
                (name, Tokenizer::from_folder(folder, &TokenizerOptions::default()).unwrap())
            })
            .into()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every decoder, alone and in a row with others.
    #[test]
    fn generated_tokenizers_stream_what_they_decode(made in made(), ids in vec(0u32..130, 0..24)) {
        let decoded = check_stream(&made.load(), &ids)?;
        if let Some(expected) = made.expected(&ids) {
            prop_assert_eq!(decoded, expected);
        }
    }
}

/// The text of the tokens `ids` between two others is their bytes put together.
fn check_bytes(tokenizer: &Tokenizer, outer: u32, ids: &[u32]) -> Result<bool, TestCaseError> {
    let bytes: Option<Vec<Vec<u8>>> = ids.iter().map(|id| tokenizer.token_bytes(*id)).collect();
    let Some(inner) = bytes.and_then(|bytes| String::from_utf8(bytes.concat()).ok()) else { return Ok(false) };
    let around = tokenizer.decode(&[outer, outer]).unwrap();
    let text = tokenizer.decode(&[&[outer], ids, &[outer]].concat()).unwrap();
    let mut places = (0..=around.len()).filter(|at| around.is_char_boundary(*at)).map(|at| around.split_at(at));
    let found =
        places.any(|(before, after)| text.strip_prefix(before).and_then(|t| t.strip_suffix(after)) == Some(&inner));
    prop_assert!(found, "{inner:?} in {text:?}");
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// The bytes of a token are those that decoding puts in its place; decoders that have none say so.
    #[test]
    fn tokens_are_their_bytes(made in made(), numbers in vec(0u32..65, 0..8)) {
        let tokenizer = made.load();
        let outer = tokenizer.token_to_id("b").unwrap();
        // A `b` that decoding keeps holds what cuts the ends of a text.
        if tokenizer.token_bytes(outer).is_some_and(|bytes| bytes.contains(&b'b')) {
            let ids: Vec<u32> = numbers.iter().map(|number| 2 * number).filter(|id| tokenizer.id_to_token(*id).is_some()).collect();
            check_bytes(&tokenizer, outer, &ids)?;
        }
    }
}

#[test]
fn real_decoders_have_bytes_for_every_token() {
    for (name, tokenizer) in fixtures() {
        let outer = tokenizer.encode("b", false).unwrap().pop().unwrap();
        let ids: Vec<u32> = (0..2000).filter(|id| tokenizer.id_to_token(*id).is_some()).collect();
        assert!(ids.iter().all(|id| tokenizer.token_bytes(*id).is_some()), "{name}");
        for ids in ids.chunks(1).chain(ids.chunks(5)) {
            check_bytes(tokenizer, outer, ids).unwrap();
        }
        for text in ["a {\"name\": \"日本\"}\n", "😀  x", "  two"] {
            let ids = tokenizer.encode(&format!("b{text}"), false).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).collect();
            // A normalizer may have left blanks out.
            let decoded = tokenizer.decode(&ids).unwrap();
            let spelled = String::from_utf8(bytes).unwrap();
            assert_eq!(spelled.trim_start_matches(' '), decoded.trim_start_matches(' '), "{name}");
            assert!(decoded.contains(text.trim().split("  ").next().unwrap()), "{name}: {decoded}");
        }
        assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    }
}

#[test]
fn tokens_that_change_each_other_have_no_bytes() {
    let tokenizer =
        |decoder: Value, clean_up: bool| Made::new(&decoder, &[], vec![("<s>".into(), true)], clean_up).load();
    let bytes = |tokenizer: &Tokenizer, token: &str| tokenizer.token_bytes(tokenizer.token_to_id(token).unwrap());
    let ctc =
        tokenizer(json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": false}), false);
    assert_eq!(bytes(&ctc, "b"), None);
    let cleaned = tokenizer(json!({"type": "Fuse"}), true);
    assert_eq!(bytes(&cleaned, "b"), None, "` .` may lie in two tokens");
    let words = tokenizer(json!({"type": "WordPiece", "prefix": "##", "cleanup": false}), false);
    assert_eq!((bytes(&words, "##b"), bytes(&words, "b")), (Some(b"b".to_vec()), Some(b" b".to_vec())));
    let id = |token: &str| words.token_to_id(token).unwrap();
    assert_eq!((words.is_special_token(id("<s>")), words.is_special_token(id("b"))), (true, false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// No text comes out cut: what was encoded is what is streamed, without a replacement character on the way.
    #[test]
    fn a_streamed_text_is_the_text(text in "[a-z <>|_▁\\nàß日本語😀👩🏽‍💻é]{0,40}") {
        for (name, tokenizer) in fixtures() {
            let ids = tokenizer.encode(&text, false).unwrap();
            let streamed = check_stream(tokenizer, &ids)?;
            prop_assert!(!streamed.contains('\u{fffd}'), "{name}: {streamed:?}");
            if name.starts_with("bpe") {
                prop_assert_eq!(&streamed, &text, "{}", name);
            }
        }
    }

    #[test]
    fn any_ids_stream(ids in vec(prop_oneof![0u32..1400, any::<u32>()], 0..40)) {
        for (_, tokenizer) in fixtures() {
            check_stream(tokenizer, &ids)?;
        }
    }
}

/// The pieces of ids, the last being that of the end.
fn pieces(made: &Made, ids: &[u32]) -> Vec<String> {
    let tokenizer = made.load();
    let mut detokenizer = tokenizer.detokenizer();
    let mut pieces = Vec::new();
    for &id in ids {
        detokenizer.add_token(id);
        pieces.push(detokenizer.last_segment());
    }
    detokenizer.finalize();
    pieces.push(detokenizer.last_segment());
    pieces
}

#[test]
fn text_comes_as_soon_as_it_is_certain() {
    let id = |token: &str| 2 * TOKENS.iter().position(|known| *known == token).unwrap() as u32;
    let check = |decoder: Value, tokens: &[&str], expected: &[&str]| {
        let ids: Vec<u32> = tokens.iter().map(|token| id(token)).collect();
        assert_eq!(pieces(&Made::new(&decoder, &[], vec![], false), &ids), expected, "{decoder}");
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    check(bytes, &["Ġ", "Ġa", "æĹ", "¥", "Ċ"], &[" ", " a", "", "日", "\n", ""]);
    let meta = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    check(meta, &["▁a", "▁a", "▁"], &["a", " a", " ", ""]);
    check(json!({"type": "ByteFallback"}), &["b", "<0xE6>", "<0x97>", "<0xA5>", "b"], &["b", "", "", "", "日b", ""]);
    check(json!({"type": "BPEDecoder", "suffix": "</w>"}), &["b", "a</w>", "b"], &["b", "", "a b", ""]);
    check(Value::Null, &["b", ".", "b"], &["b", " .", " b", ""]);
}

#[test]
fn added_tokens_are_their_own_text_among_bytes() {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let added = ["õ", "č", "đem", " x", "<|end|>", "ſ"].map(|token| (token.to_owned(), token.starts_with('<')));
    let made = Made::new(&bytes, &[], added.to_vec(), false);
    let tokenizer = made.load();
    let ids: Vec<u32> = ["õ", "Ġa", "č", "đem", " x", "<|end|>", "ſ"].map(|t| tokenizer.token_to_id(t).unwrap()).into();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "õ ačđem x<|end|>ſ");
    assert_eq!(tokenizer.decode_without_special_tokens(&ids).unwrap(), "õ ačđem xſ");
    assert_eq!(pieces(&made, &ids).concat(), "õ ačđem x<|end|>ſ");
}

#[test]
fn a_long_line_streams_in_linear_time() {
    for (name, tokenizer) in fixtures() {
        let begun = Instant::now();
        let mut detokenizer = tokenizer.detokenizer();
        let mut length = 0;
        for id in (0..60_000_u32).map(|number| 300 + number % 200) {
            detokenizer.add_token(id);
            length += detokenizer.last_segment().len();
        }
        assert!(length > 60_000, "{name}: {length}");
        // It takes less than a second; decoding the line again for every token took many minutes.
        assert!(begun.elapsed() < Duration::from_mins(1), "{name}: {:?}", begun.elapsed());
    }
}
