//! Pieces of text with `▁` for spaces and tokens for single bytes: sentencepiece's BPE.
//!
//! Unusual: this is not sentencepiece's Unigram. The two neighbours that make the piece of the best score are merged first, so the
//! merges are those of all pieces in the order of their scores.

use serde_json::{Map, Value, json};

use super::vocab::{Kind, Vocab};
use super::{Steps, bpe, bytes, content, split};
use crate::text::sentencepiece;
use crate::weights::gguf::GgufError;

/// `tokenizer.ggml.model` is `llama`: the merges follow from the scores.
pub(super) fn by_scores(vocab: &Vocab) -> Result<Value, GgufError> {
    let key = "tokenizer.ggml.scores";
    let scores = match vocab.metadata.floats(key)? {
        None => return Err(vocab.metadata.wrong(key, "is missing")),
        Some(scores) if scores.len() != vocab.len() => {
            let why = format!("has {} elements for {} tokens", scores.len(), vocab.len());
            return Err(vocab.metadata.wrong(key, why));
        }
        Some(scores) => scores,
    };
    let ids = vocab.ids();
    let mut pieces: Vec<(f32, &str)> = vocab
        .tokens()
        .zip(scores)
        .filter(|((_, _, kind), _)| matches!(kind, Kind::Normal | Kind::Unused | Kind::UserDefined))
        .map(|((_, token, _), &score)| (score, token))
        .collect();
    // Of equal scores the lower id comes first, since the sort is stable.
    pieces.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let merges = sentencepiece::merges(pieces.into_iter().map(|(_, piece)| piece), |piece| ids.contains_key(piece));
    let merges = merges.into_iter().map(|(left, right)| json!([left, right])).collect();
    steps(vocab, Value::Null, ids, merges, true)
}

/// `tokenizer.ggml.model` is `gemma4`: the merges are in the metadata, and none goes over the end of a line.
pub(super) fn by_merges(vocab: &Vocab) -> Result<Value, GgufError> {
    let ids = vocab.ids();
    let merges = bytes::merges(vocab, &ids)?;
    steps(vocab, split("[^\\n]+|\\n+"), ids, merges, true)
}

fn steps(
    vocab: &Vocab,
    pre_tokenizer: Value,
    ids: Map<String, Value>,
    merges: Vec<Value>,
    adds_start: bool,
) -> Result<Value, GgufError> {
    let unknown = vocab.named("tokenizer.ggml.unknown_token_id")?.map(|(_, token)| token);
    let has_bytes = vocab.tokens().any(|(_, _, kind)| kind == Kind::Byte);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match vocab.adds_space {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}),
        false => replace,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if vocab.adds_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let settings = [("unk_token", unknown.into()), ("fuse_unk", true.into()), ("byte_fallback", has_bytes.into())];
    let model = bpe(ids, merges, settings);
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    content(vocab, Steps { normalizer, pre_tokenizer, decoder, model, adds_start, adds_end: false })
}
