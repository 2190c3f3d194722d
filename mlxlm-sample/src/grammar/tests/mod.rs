//! Grammars over a toy vocabulary and over small trained ones.

mod hostile;
mod limits;
mod masks;
mod specs;
mod tokens;
mod walks;

use std::path::Path;

use mlxlm_core::text::{Tokenizer, TokenizerOptions};
use serde_json::{Map, Value, json};

use super::*;

/// Tokens of the toy vocabulary behind its 256 bytes.
const WORDS: [&str; 14] =
    ["{\"", "\":", "\": \"", "\",", "\"}", "},", "  ", ":\"", "\n\n", "\n  ", "true", "12", "na", "日本"];

/// Its special tokens, of which the first two end a text.
const SPECIAL: [&str; 5] = ["<end>", "<stop>", "<|tool|>", "[INST]", "[7]"];

/// A vocabulary of bytes: byte `b` is token `b`, then come [`WORDS`] and [`SPECIAL`].
fn toy() -> Tokenizer {
    let letters = letters();
    let spell = |text: &str| text.bytes().map(|byte| letters[usize::from(byte)]).collect::<String>();
    let plain = letters.iter().map(char::to_string).chain(WORDS.iter().map(|word| spell(word)));
    let vocab: Map<String, Value> = plain.chain(SPECIAL.map(str::to_owned)).zip((0..).map(Value::from)).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .map(|token| {
            json!({"id": vocab[*token], "content": token, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    let eos = ["<end>", "<stop>"].map(|token| vocab[token].as_u64().unwrap() as u32);
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let content = json!({
        "added_tokens": added, "decoder": bytes, "pre_tokenizer": bytes,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let options = TokenizerOptions { eos_token_ids: Some(eos.to_vec()), ..TokenizerOptions::default() };
    Tokenizer::from_json("toy", &content, &options).unwrap()
}

/// The alphabet of vocabularies of bytes: the letter of each byte.
fn letters() -> Vec<char> {
    let is_own = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    (0..256).map(|byte| if is_own(&byte) { byte } else { others.next().unwrap() }).filter_map(char::from_u32).collect()
}

/// The entries of the toy model's logits: a few more than it has tokens.
const TOY_SIZE: usize = 300;

fn toy_grammars() -> Grammars {
    Grammars::new(&toy(), TOY_SIZE)
}

/// A trained tokenizer of the repository.
fn trained(folder: &str) -> Tokenizer {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let options = TokenizerOptions { eos_token_ids: Some(vec![2]), ..TokenizerOptions::default() };
    Tokenizer::from_folder(root.join(folder), &options).unwrap()
}

/// Folders of trained tokenizers with more tokens than 256 bytes, of every kind that is used.
const TRAINED: [&str; 6] = [
    "mlxlm-models/demo/demo",
    "mlxlm-core/tests/fixtures/tokenizer/bpe_gpt2",
    "mlxlm-core/tests/fixtures/tokenizer/bpe_llama3",
    "mlxlm-core/tests/fixtures/tokenizer/spm_llama2",
    "mlxlm-core/tests/fixtures/tokenizer/spm_gemma",
    "mlxlm-core/tests/fixtures/tokenizer/unigram",
];

fn schema(value: Value) -> GrammarSpec {
    GrammarSpec::JsonSchema(value)
}

fn regex(source: &str) -> GrammarSpec {
    GrammarSpec::Regex(source.into())
}

fn lark(source: &str) -> GrammarSpec {
    GrammarSpec::Lark(source.into())
}

/// Takes the bytes of a text one by one; gives how many were allowed.
fn take(matcher: &mut Matcher, text: &str) -> usize {
    text.bytes().take_while(|byte| matcher.accept(u32::from(*byte)).is_ok()).count()
}

/// Whether a text is an answer to a grammar over the toy vocabulary.
fn answers(grammars: &Grammars, spec: &GrammarSpec, text: &str) -> bool {
    let mut matcher = grammars.matcher(spec).unwrap();
    take(&mut matcher, text) == text.len() && matcher.can_end().unwrap()
}
