//! The `tokenizers` crate behind the few calls that the rest of `text` makes.
//!
//! Unusual:
//! - A tokenizer is foreign data for a library that was written for friendly data: sizes and ids are checked first, and
//!   its panics become errors. (Its regular expressions are Oniguruma's, as in Python; the other engine that the library
//!   can use would give up 10 times sooner, with a panic too.)
//! - Tokens are looked up by id one by one, so that no table as long as the largest id is ever built.
//! - Truncation and padding that a `tokenizer.json` may ask for are for batches of an encoder, and are left off, as in
//!   the reference.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::processors::template::TemplateProcessing;

use crate::text::llama::LlamaClass;
use crate::text::{DetokenizerKind, TextError, sentencepiece};
use crate::{Result, io};

/// The largest `tokenizer.json` that is read; real ones stay below 50 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Ids live in MLX arrays of `i32`.
const MAX_ID: u64 = i32::MAX as u64;

/// A loaded `tokenizer.json` or `tokenizer.model`.
pub(crate) struct Codec {
    backend: tokenizers::Tokenizer,
    /// New lines are written `<n>` in this vocabulary (`NewlineTokenizer` of the reference).
    newline_marks: bool,
    /// Spaces before punctuation go away when text is decoded.
    clean_up_spaces: bool,
    /// Whether the vocabulary is one of bytes, as in GPT-2.
    pub(crate) byte_level: bool,
    /// Tokens that the file names itself.
    pub(crate) named_tokens: Vec<(&'static str, String)>,
}

/// What is needed of `tokenizer.json` besides what the `tokenizers` crate reads itself.
#[derive(Deserialize)]
struct Outline {
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
}

impl Outline {
    /// Whether one of the steps is that of a vocabulary of bytes.
    fn is_byte_level(&self) -> bool {
        let steps = [&self.normalizer, &self.pre_tokenizer, &self.post_processor, &self.decoder];
        steps.iter().any(|step| step.to_string().contains("\"ByteLevel\""))
    }
}

impl Codec {
    /// Reads a `tokenizer.json`, and tells which streaming detokenizer its decoder asks for.
    pub(crate) fn open(path: &Path) -> Result<(Self, DetokenizerKind)> {
        let bad = |reason: String| TextError::BadTokenizer { path: path.to_owned(), reason };
        let bytes = read_limited(path, MAX_BYTES)?;
        let outline: Outline = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if let Some(token) = outline.added_tokens.iter().find(|token| token.id > MAX_ID) {
            return Err(bad(format!("the id {} of an added token is above {MAX_ID}", token.id)).into());
        }
        let mut backend = guarded(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(bad)?;
        let pad_token = backend.get_padding().map(|padding| ("pad_token", padding.pad_token.clone()));
        backend.with_padding(None);
        backend.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        let codec = Self::new(backend, outline.is_byte_level(), pad_token.into_iter().collect());
        Ok((codec, DetokenizerKind::of(&outline.decoder)))
    }

    /// Reads a `tokenizer.model` of sentencepiece.
    pub(crate) fn open_sentencepiece(path: &Path) -> Result<(Self, DetokenizerKind)> {
        let bytes = read_limited(path, MAX_BYTES)?;
        let (backend, names) = guarded(|| sentencepiece::tokenizer(&bytes))
            .map_err(|reason| TextError::BadTokenizer { path: path.to_owned(), reason })?;
        let decoder = backend.get_decoder().map(serde_json::to_value).and_then(Result::ok).unwrap_or_default();
        Ok((Self::new(backend, false, names), DetokenizerKind::of(&decoder)))
    }

    fn new(backend: tokenizers::Tokenizer, byte_level: bool, named_tokens: Vec<(&'static str, String)>) -> Self {
        Self { backend, newline_marks: false, clean_up_spaces: false, byte_level, named_tokens }
    }

    /// Puts a start and an end token around texts.
    pub(crate) fn surround(&mut self, start: Option<&str>, end: Option<&str>) -> Result<(), TextError> {
        let tokens: Vec<(String, u32)> =
            start.iter().chain(&end).filter_map(|token| Some(((*token).to_owned(), self.id(token)?))).collect();
        let pieces: Vec<&str> = start.into_iter().chain(["$A"]).chain(end).collect();
        let template = TemplateProcessing::builder()
            .try_single(pieces)
            .map_err(TextError::Failed)?
            .special_tokens(tokens)
            .build()
            .map_err(|error| TextError::Failed(error.to_string()))?;
        self.backend.with_post_processor(Some(template));
        Ok(())
    }

    /// Takes `\n` for `<n>` and back.
    pub(crate) fn use_newline_marks(&mut self) {
        self.newline_marks = true;
    }

    /// Removes spaces before punctuation from decoded text. The reference does not do so for BPE, whose text it would
    /// spoil.
    pub(crate) fn clean_up_spaces(&mut self) {
        self.clean_up_spaces = !matches!(self.backend.get_model(), tokenizers::ModelWrapper::BPE(_));
    }

    /// Makes of it what transformers' class makes of it.
    pub(crate) fn rebuild_as(&mut self, class: LlamaClass) -> Result<(), TextError> {
        class.rebuild(&mut self.backend).map_err(|error| TextError::Failed(error.to_string()))
    }

    /// Adds tokens that `tokenizer.json` does not have with the same properties.
    pub(crate) fn add_tokens(&mut self, tokens: &[AddedToken]) -> Result<(), TextError> {
        guarded(|| Ok(self.backend.add_tokens(tokens))).map(drop).map_err(TextError::Failed)
    }

    /// The tokens that are matched before the text is split, in no particular order.
    pub(crate) fn added_tokens(&self) -> Vec<AddedToken> {
        self.backend.get_added_tokens_decoder().into_values().collect()
    }

    /// The number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    pub(crate) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let marked = if self.newline_marks { text.replace('\n', "<n>") } else { text.to_owned() };
        let encoding = guarded(|| self.backend.encode_fast(marked, add_special_tokens)).map_err(TextError::Failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids; ids that are no tokens are left out, as in the reference.
    pub(crate) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        let mut text = guarded(|| self.backend.decode(ids, skip_special_tokens)).map_err(TextError::Failed)?;
        if self.clean_up_spaces {
            for (spaced, closed) in [
                (" .", "."),
                (" ?", "?"),
                (" !", "!"),
                (" ,", ","),
                (" ' ", "'"),
                (" n't", "n't"),
                (" 'm", "'m"),
                (" 's", "'s"),
                (" 've", "'ve"),
                (" 're", "'re"),
            ] {
                text = text.replace(spaced, closed);
            }
        }
        Ok(if self.newline_marks { text.replace("<n>", "\n") } else { text })
    }
}

/// Runs the library, which panics where a regular expression takes too long or tables contradict each other; what it
/// says of that, or of an error, comes back.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) => message.clone(),
            (None, Some(message)) => (*message).to_owned(),
            (None, None) => "its tables contradict each other".into(),
        }),
    }
}

/// Reads a file of at most `limit_bytes`.
fn read_limited(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = io::open(path)?;
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(|source| crate::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > limit_bytes {
        return Err(TextError::TooLarge { path: path.to_owned(), limit_bytes }.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(text: &str) -> Result<Codec> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        io::write(&path, text).unwrap();
        Codec::open(&path).map(|(codec, _)| codec)
    }

    fn word_level(added: &str, rest: &str) -> String {
        format!(
            r#"{{"added_tokens":[{added}],"pre_tokenizer":{{"type":"Whitespace"}},{rest}
            "model":{{"type":"WordLevel","vocab":{{"a":0,"b":7}},"unk_token":"[UNK]"}}}}"#
        )
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused() {
        let token = |id: &str| word_level(&format!(r#"{{"id":{id},"content":"<t>","special":true}}"#), "");
        let split = |regex: &str| {
            let step = format!(r#""normalizer":{{"type":"Replace","pattern":{{"Regex":"{regex}"}},"content":""}},"#);
            word_level("", &step)
        };
        for (text, reason) in [
            (String::new(), "EOF"),
            ("[]".into(), "invalid"),
            ("{}".into(), "Model missing"),
            (r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}"#.into(), "Token `b` out of vocabulary"),
            (r#"{"model":{"type":"Unigram","vocab":[["a",0.0]],"unk_id":5}}"#.into(), "UnkIdNotInVocabulary"),
            (token("4294967295"), "above 2147483647"),
            (token("-1"), "invalid value"),
            (split("(a"), "unmatched parenthesis"),
            (format!(r#"{{"decoder":{}1"#, "[".repeat(100_000)), "recursion limit"),
        ] {
            let error = codec(&text).err().unwrap();
            assert!(matches!(error, crate::Error::Text(TextError::BadTokenizer { .. })), "{error}");
            assert!(error.to_string().contains(reason), "{error}, expected {reason}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        io::write(&path, "12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        let error = read_limited(&path, 4).unwrap_err();
        assert!(matches!(error, crate::Error::Text(TextError::TooLarge { limit_bytes: 4, .. })), "{error}");
    }

    #[test]
    fn an_unknown_word_without_a_token_for_it_is_an_error() {
        let codec = codec(&word_level("", "")).unwrap();
        assert_eq!(codec.encode("a b", true).unwrap(), [0, 7]);
        let error = codec.encode("a c", true).unwrap_err();
        assert!(matches!(error, TextError::Failed(_)), "{error}");
    }

    #[test]
    fn ids_that_are_no_tokens_are_left_out() {
        let codec = codec(&word_level("", "")).unwrap();
        assert_eq!(codec.decode(&[0, 3, 7, u32::MAX], false).unwrap(), "a b");
        assert_eq!((codec.token(3), codec.token(u32::MAX), codec.len()), (None, None, 2));
    }

    #[test]
    fn new_lines_may_be_marked() {
        let text = r#"{"model":{"type":"BPE","vocab":{"a":0,"<n>":1},"merges":[]},"decoder":{"type":"Fuse"},
            "added_tokens":[{"id":1,"content":"<n>","special":false,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}]}"#;
        let mut codec = codec(text).unwrap();
        codec.use_newline_marks();
        assert_eq!(codec.encode("a\n\na", false).unwrap(), [0, 1, 1, 0]);
        assert_eq!(codec.decode(&[0, 1, 0], false).unwrap(), "a\na");
    }

    #[test]
    fn a_regex_that_explodes_is_an_error() {
        let step = r#""normalizer":{"type":"Replace","pattern":{"Regex":"(a+)+$"},"content":"x"},"#;
        let codec = codec(&word_level("", step)).unwrap();
        let error = codec.encode(&("a".repeat(40) + "b"), false).unwrap_err();
        assert_eq!(error.to_string(), "the tokenizer failed: Onig: Regex search error: retry-limit-in-match over");
        assert!(codec.encode("a b", false).is_ok(), "it can be used after that");
    }
}
