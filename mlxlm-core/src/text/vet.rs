//! What is checked in a `tokenizer.json` before the `tokenizers` crate, which trusts its files, sees it.
//!
//! The lengths that real files have are far below the limits here: an added token or the content of a replacement has
//! some dozen characters.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::NormalizerWrapper;

/// Ids live in MLX arrays of `i32`.
const MAX_ID: u64 = i32::MAX as u64;

/// The longest added token, and the longest text that another is replaced by, in bytes.
const MAX_STRING_BYTES: usize = 1024;

/// The longest text that is put in front of every other, in bytes.
const MAX_PREPEND_BYTES: usize = 64;

/// How many times longer a decoder may make a token at most; one byte to three is usual.
const MAX_DECODED_GROWTH: usize = 1024;

/// What is needed of `tokenizer.json` besides what the `tokenizers` crate reads itself.
#[derive(Deserialize)]
pub(crate) struct Outline {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    #[serde(default)]
    content: String,
}

impl Outline {
    /// Whether one of the steps is that of a vocabulary of bytes.
    pub(crate) fn is_byte_level(&self) -> bool {
        let steps = [&self.normalizer, &self.pre_tokenizer, &self.post_processor, &self.decoder];
        steps.iter().any(|step| step.to_string().contains("\"ByteLevel\""))
    }

    /// The normalizer, and the added tokens, which it makes longer as it does texts.
    pub(crate) fn into_normalizer(self) -> tokenizers::Result<(Option<NormalizerWrapper>, Vec<String>)> {
        let normalizer = serde_json::from_value(self.normalizer)?;
        Ok((normalizer, self.added_tokens.into_iter().map(|token| token.content).collect()))
    }

    /// Refuses what would make the library panic, allocate without bound or loop.
    pub(crate) fn check(&self) -> Result<(), String> {
        for token in &self.added_tokens {
            if token.id > MAX_ID {
                return Err(format!("the id {} of an added token is above {MAX_ID}", token.id));
            }
            check_added_token(&token.content)?;
        }
        each_object(&self.normalizer, &mut check_step)?;
        each_object(&self.pre_tokenizer, &mut check_step)?;
        each_object(&self.post_processor, &mut check_template)?;
        let mut growth = 1_usize;
        each_object(&self.decoder, &mut |step| {
            check_step(step)?;
            if let Some((pattern, content)) = replacement(step) {
                growth = growth.saturating_mul((content.len() / pattern.map_or(1, str::len).max(1)).max(1));
            }
            if growth > MAX_DECODED_GROWTH {
                return Err(format!("its decoder can make a token more than {MAX_DECODED_GROWTH} times longer"));
            }
            Ok(())
        })
    }
}

/// Refuses an added token that is too long to be one.
pub(crate) fn check_added_token(content: &str) -> Result<(), String> {
    check_length("an added token", content, MAX_STRING_BYTES)
}

/// Refuses the table of a `Precompiled` normalizer that says it is longer than it is: `head` is its beginning and
/// `length` its length in bytes. The library would allocate what it says.
pub(crate) fn check_charsmap(head: &[u8], length: usize) -> Result<(), String> {
    let Some(size) = head.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) else { return Ok(()) };
    if usize::try_from(size).is_ok_and(|size| size <= length.saturating_sub(4)) {
        return Ok(());
    }
    Err(format!("its `precompiled_charsmap` has {length} bytes and says that {size} follow"))
}

/// Calls `check` with every object in `value`, outer ones first.
fn each_object(value: &Value, check: &mut impl FnMut(&Map<String, Value>) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            check(fields)?;
            fields.values().try_for_each(|value| each_object(value, check))
        }
        Value::Array(items) => items.iter().try_for_each(|value| each_object(value, check)),
        _ => Ok(()),
    }
}

/// A step of a normalizer, a pre-tokenizer or a decoder.
fn check_step(step: &Map<String, Value>) -> Result<(), String> {
    if let Some((pattern, content)) = replacement(step) {
        if pattern == Some("") {
            return Err("a step replaces the empty text".into());
        }
        check_length("the content of a replacement", content, MAX_STRING_BYTES)?;
    }
    if let Some(text) = step.get("prepend").and_then(Value::as_str) {
        check_length("the text that is put in front", text, MAX_PREPEND_BYTES)?;
    }
    if let Some(charsmap) = step.get("precompiled_charsmap").and_then(Value::as_str) {
        let length =
            charsmap.trim_end_matches('=').len() / 4 * 3 + [0, 0, 1, 2][charsmap.trim_end_matches('=').len() % 4];
        check_charsmap(&base64_head(charsmap), length)?;
    }
    if step.get("type").and_then(Value::as_str) == Some("FixedLength") && step.get("length") == Some(&0.into()) {
        return Err("a step splits texts into parts of the length 0".into());
    }
    Ok(())
}

/// The text (not a regular expression) that a `Replace` looks for, and its content; `None` for another step.
fn replacement(step: &Map<String, Value>) -> Option<(Option<&str>, &str)> {
    let pattern = step.get("pattern")?;
    Some((pattern.get("String").and_then(Value::as_str), step.get("content")?.as_str()?))
}

/// A template of what is put around a text: the text once, and tokens that it declares.
fn check_template(step: &Map<String, Value>) -> Result<(), String> {
    let Some(Value::Array(pieces)) = step.get("single") else { return Ok(()) };
    if pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count() > 1 {
        return Err("its post-processor repeats the text".into());
    }
    let ids = pieces.iter().filter_map(|piece| piece.get("SpecialToken")?.get("id")?.as_str());
    let declared = |id: &str| step.get("special_tokens").is_some_and(|tokens| tokens.get(id).is_some());
    match ids.into_iter().find(|id| !declared(id)) {
        Some(id) => Err(format!("its post-processor adds `{}`, which it does not declare", shortened(id))),
        None => Ok(()),
    }
}

fn check_length(what: &str, text: &str, limit_bytes: usize) -> Result<(), String> {
    match text.len() > limit_bytes {
        true => Err(format!("{what} has {} bytes, more than {limit_bytes}: `{}`", text.len(), shortened(text))),
        false => Ok(()),
    }
}

/// The beginning of a foreign text, for an error.
fn shortened(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

/// The first four bytes of a text in base64; fewer where it is shorter or is none.
fn base64_head(text: &str) -> Vec<u8> {
    let digit = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let bits = text.bytes().take(6).map_while(digit).fold((0_u64, 0), |(bits, n), d| (bits << 6 | u64::from(d), n + 6));
    let (bits, count) = bits;
    (0..count / 8).map(|byte| (bits >> (count - 8 * (byte + 1))) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(outline: Value) -> String {
        serde_json::from_value::<Outline>(outline).unwrap().check().err().unwrap_or_default()
    }

    #[test]
    fn steps_that_cannot_work_are_refused() {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let many = json!({"type": "Sequence", "decoders": vec![replace(json!({"String": "a"}), &"a".repeat(100)); 2]});
        let template = |single: Value| {
            json!({"post_processor": {"type": "Sequence", "processors": [
            {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {"<s>": {}}}]}})
        };
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
        for (outline, reason) in [
            (json!({"added_tokens": [{"id": 1, "content": "x".repeat(1025)}]}), "an added token has 1025 bytes"),
            (json!({"added_tokens": [{"id": 1, "content": "x".repeat(1024)}]}), ""),
            (json!({"normalizer": replace(json!({"String": ""}), "x")}), "a step replaces the empty text"),
            (json!({"decoder": [replace(json!({"String": ""}), "x")]}), "a step replaces the empty text"),
            (json!({"normalizer": replace(json!({"Regex": "a"}), &"x".repeat(2000))}), "the content of a replacement"),
            (json!({"normalizer": {"type": "Prepend", "prepend": "▁".repeat(22)}}), "the text that is put in front"),
            (json!({"normalizer": {"type": "Prepend", "prepend": "▁"}}), ""),
            (json!({"decoder": many}), "its decoder can make a token more than 1024 times longer"),
            (json!({"decoder": replace(json!({"String": "▁"}), " ")}), ""),
            (json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}), "a step splits texts into parts"),
            (json!({"pre_tokenizer": {"type": "FixedLength", "length": 1}}), ""),
            (template(json!([token("<s>"), text])), ""),
            (template(json!([token("</s>"), text])), "its post-processor adds `</s>`"),
            (template(json!([text, text])), "its post-processor repeats the text"),
        ] {
            let found = check(outline.clone());
            assert!(found.starts_with(reason) && found.is_empty() == reason.is_empty(), "{outline}: {found:?}");
        }
    }

    #[test]
    fn a_charsmap_is_as_long_as_it_says() {
        let charsmap = |text: &str| check(json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": text}}));
        assert_eq!(base64_head("AQIDBAUG"), [1, 2, 3, 4]);
        assert_eq!(base64_head("AQI"), [1, 2]);
        assert_eq!(base64_head("!"), [0; 0]);
        // A trie of 4 bytes with nothing after it, and with one byte less.
        assert_eq!(charsmap("BAAAAAAAAAA="), "");
        assert_eq!(charsmap("BAAAAAAAAA=="), "its `precompiled_charsmap` has 7 bytes and says that 4 follow");
        assert!(charsmap("/////wAAAAA=").contains("says that 4294967295 follow"));
    }
}
