//! Merges of bytes, as in GPT-2: `tokenizer.ggml.model` is `gpt2`.

use serde_json::{Map, Value, json};

use super::splits::Splits;
use super::vocab::Vocab;
use super::{Steps, bpe, content, split};
use crate::weights::gguf::GgufError;

const PRE: &str = "tokenizer.ggml.pre";

/// The content of `tokenizer.json`.
pub(super) fn tokenizer(vocab: &Vocab) -> Result<Value, GgufError> {
    let name = vocab.metadata.text(PRE)?.unwrap_or("default");
    let splits = Splits::find(name)
        .ok_or_else(|| vocab.metadata.wrong(PRE, format!("is `{name}`, a way to split texts that is not known")))?;
    let mut steps: Vec<Value> = splits.patterns.iter().map(|pattern| split(pattern)).collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    let ids = vocab.ids();
    let merges = merges(vocab, &ids)?;
    let steps = Steps {
        normalizer: if splits.composes { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: bpe(ids, merges, [("ignore_merges", splits.whole_first.into())]),
        adds_start: splits.adds_start,
        adds_end: false,
    };
    content(vocab, steps)
}

/// The merges of the metadata, as pairs. Those of tokens that are not in the vocabulary could never be used and are left out.
pub(super) fn merges(vocab: &Vocab, ids: &Map<String, Value>) -> Result<Vec<Value>, GgufError> {
    let key = "tokenizer.ggml.merges";
    let merges = vocab.metadata.texts(key)?.ok_or_else(|| vocab.metadata.wrong(key, "is missing"))?;
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        // A space at the start belongs to the left part.
        let second = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge.get(second..).and_then(|rest| rest.find(' ')).map(|at| at + second);
        let parts = space.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?)));
        let (left, right) =
            parts.ok_or_else(|| vocab.metadata.wrong(key, format!("has `{merge}`, which is no pair")))?;
        if [left, right, &format!("{left}{right}")].iter().all(|part| ids.contains_key(*part)) {
            pairs.push(json!([left, right]));
        }
    }
    Ok(pairs)
}
