//! `WordPiece`, as in BERT: `tokenizer.ggml.model` is `bert`.

use serde_json::{Value, json};

use super::vocab::{Kind, Vocab};
use super::{Steps, content};
use crate::weights::gguf::GgufError;

/// What marks a token that goes on with a word.
const GOES_ON: &str = "##";

/// The content of `tokenizer.json`.
pub(super) fn tokenizer(vocab: &Vocab) -> Result<Value, GgufError> {
    let unknown = vocab.named("tokenizer.ggml.unknown_token_id")?.map_or("[UNK]", |(_, token)| token);
    let steps = Steps {
        normalizer: json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true,
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        decoder: json!({"type": "WordPiece", "prefix": GOES_ON, "cleanup": true}),
        model: json!({
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": GOES_ON,
            "max_input_chars_per_word": 100, "vocab": vocab.ids_as(written),
        }),
        adds_start: true,
        adds_end: true,
    };
    content(vocab, steps)
}

/// A token as `WordPiece` has it: in the metadata those that begin a word are marked, and not those that go on with one.
fn written(token: &str, kind: Kind) -> String {
    let is_mark = kind != Kind::Normal || token.starts_with('[') && token.ends_with(']');
    match token.strip_prefix('▁') {
        Some(word) => word.to_owned(),
        None if is_mark => token.to_owned(),
        None => format!("{GOES_ON}{token}"),
    }
}
