//! The `tokenizers` crate behind the few calls that the rest of `text` makes.
//!
//! Unusual:
//! - A tokenizer is foreign data for a library that was written for friendly data: it is checked first (`vet.rs`,
//!   `growth.rs`), and the library runs under guard (`guard.rs`). (Its regular expressions are Oniguruma's, as in Python;
//!   the other engine that the library can use would give up 10 times sooner.)
//! - Decoding is done here (`decoding`), so that a text is the same streamed and at once.
//! - Tokens are looked up by id one by one, so that no table as long as the largest id is ever built.
//! - Truncation and padding that a `tokenizer.json` may ask for are for batches of an encoder, and are left off, as in
//!   the reference.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use tokenizers::AddedToken;
use tokenizers::processors::template::TemplateProcessing;

use crate::text::decoding::Decoding;
use crate::text::growth::Growth;
use crate::text::guard::{guarded, timed};
use crate::text::llama::LlamaClass;
use crate::text::vet::{self, Outline};
use crate::text::{TextError, sentencepiece};
use crate::{Result, io};

/// The largest `tokenizer.json` that is read; real ones stay below 50 MB.
const MAX_BYTES: u64 = 512 << 20;

/// The longest text that is tokenized; the library takes some hundred bytes of memory for each character.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// What becomes of decoded text whose spaces are cleaned up, in this order.
const CLOSED_SPACES: [(&str, &str); 10] = [
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
];

/// How a new line is written in a vocabulary that marks them (`NewlineTokenizer` of the reference).
const NEWLINE_MARK: &str = "<n>";

/// A loaded `tokenizer.json` or `tokenizer.model`.
pub(crate) struct Codec {
    backend: Arc<tokenizers::Tokenizer>,
    decoding: Decoding,
    growth: Arc<Growth>,
    newline_marks: bool,
    /// Whether the vocabulary is one of bytes, as in GPT-2.
    pub(crate) byte_level: bool,
    /// Tokens that the file names itself.
    pub(crate) named_tokens: Vec<(&'static str, String)>,
}

impl Codec {
    /// Reads a `tokenizer.json`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self::from_json(path, read_limited(path, MAX_BYTES)?)?)
    }

    /// Reads the bytes of a `tokenizer.json`; `path` is where they come from, for errors.
    pub(crate) fn from_json(path: &Path, bytes: Vec<u8>) -> Result<Self, TextError> {
        let bad = |reason: String| TextError::BadTokenizer { path: path.to_owned(), reason };
        let outline: Outline = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        outline.check().map_err(bad)?;
        let length = bytes.len();
        let byte_level = outline.is_byte_level();
        let load = move || {
            let (normalizer, added) = outline.into_normalizer()?;
            let growth = Growth::of(normalizer.as_ref())?;
            added.iter().try_for_each(|token| growth.check(token))?;
            tokenizers::Tokenizer::from_bytes(&bytes)
        };
        let mut backend = timed(length, load).map_err(bad)?;
        let pad_token = backend.get_padding().map(|padding| ("pad_token", padding.pad_token.clone()));
        backend.with_padding(None);
        backend.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        Self::new(backend, byte_level, pad_token.into_iter().collect()).map_err(bad)
    }

    /// Reads a `tokenizer.model` of sentencepiece.
    pub(crate) fn open_sentencepiece(path: &Path) -> Result<Self> {
        let bytes = read_limited(path, MAX_BYTES)?;
        let built = timed(bytes.len(), move || sentencepiece::tokenizer(&bytes))
            .and_then(|(backend, names)| Self::new(backend, false, names));
        Ok(built.map_err(|reason| TextError::BadTokenizer { path: path.to_owned(), reason })?)
    }

    fn new(
        backend: tokenizers::Tokenizer,
        byte_level: bool,
        named_tokens: Vec<(&'static str, String)>,
    ) -> Result<Self, String> {
        let (decoding, growth) =
            guarded(|| Ok((Decoding::new(backend.get_decoder())?, Growth::of(backend.get_normalizer())?)))?;
        let (backend, growth) = (Arc::new(backend), Arc::new(growth));
        Ok(Self { backend, decoding, growth, newline_marks: false, byte_level, named_tokens })
    }

    /// The library's tokenizer, while no text is being tokenized.
    fn backend_mut(&mut self) -> Result<&mut tokenizers::Tokenizer, TextError> {
        Arc::get_mut(&mut self.backend).ok_or_else(|| TextError::Failed("it is in use".into()))
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
        self.backend_mut()?.with_post_processor(Some(template));
        Ok(())
    }

    /// Takes `\n` for `<n>` and back.
    pub(crate) fn use_newline_marks(&mut self) {
        self.newline_marks = true;
        self.decoding.then_replace(&[(NEWLINE_MARK, "\n")]);
    }

    /// Removes spaces before punctuation from decoded text. The reference does not do so for BPE, whose text it would
    /// spoil.
    pub(crate) fn clean_up_spaces(&mut self) {
        if !matches!(self.backend.get_model(), tokenizers::ModelWrapper::BPE(_)) {
            self.decoding.then_replace(&CLOSED_SPACES);
        }
    }

    /// Makes of it what transformers' class makes of it.
    pub(crate) fn rebuild_as(&mut self, class: LlamaClass) -> Result<(), TextError> {
        let backend = self.backend_mut()?;
        class.rebuild(backend).map_err(|error| TextError::Failed(error.to_string()))?;
        let built = Decoding::new(backend.get_decoder())
            .and_then(|decoding| Ok((decoding, Growth::of(backend.get_normalizer())?)));
        let (decoding, growth) = built.map_err(|error| TextError::Failed(error.to_string()))?;
        (self.decoding, self.growth) = (decoding, Arc::new(growth));
        Ok(())
    }

    /// Adds tokens that `tokenizer.json` does not have with the same properties.
    pub(crate) fn add_tokens(&mut self, tokens: &[AddedToken]) -> Result<(), TextError> {
        tokens.iter().try_for_each(|token| vet::check_added_token(&token.content)).map_err(TextError::Failed)?;
        let growth = Arc::clone(&self.growth);
        let backend = self.backend_mut()?;
        let add = || {
            tokens.iter().try_for_each(|token| growth.check(&token.content))?;
            Ok(backend.add_tokens(tokens))
        };
        guarded(add).map(drop).map_err(TextError::Failed)
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

    /// The token of an id as the decoder gets it, and whether it is an added one.
    pub(crate) fn spelled(&self, id: u32) -> Option<(String, bool)> {
        match self.backend.get_added_vocabulary().simple_id_to_token(id) {
            Some(token) => Some((token, true)),
            None => self.backend.id_to_token(id).map(|token| (token, false)),
        }
    }

    /// Whether decoding without special tokens leaves a token out.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let added = self.backend.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// The bytes that a token adds between two others.
    pub(crate) fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let (token, added) = self.spelled(id)?;
        self.decoding.between(token, added)
    }

    pub(crate) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TextTooLong { bytes: text.len(), limit_bytes: MAX_TEXT_BYTES });
        }
        let text = if self.newline_marks { text.replace('\n', NEWLINE_MARK) } else { text.to_owned() };
        let (backend, growth) = (Arc::clone(&self.backend), Arc::clone(&self.growth));
        let bytes = text.len();
        let run = move || {
            growth.check(&text)?;
            Ok(backend.encode_fast(text, add_special_tokens)?.get_ids().to_vec())
        };
        timed(bytes, run).map_err(TextError::Failed)
    }

    /// A decoder for a new text.
    pub(crate) fn decoding(&self) -> Decoding {
        self.decoding.clone()
    }

    /// The text of ids; ids that are no tokens are left out, as in the reference.
    pub(crate) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        let special = |token: &str| self.backend.get_added_vocabulary().is_special_token(token);
        let (mut decoding, mut text) = (self.decoding(), String::new());
        for (token, added) in ids.iter().filter_map(|id| self.spelled(*id)) {
            if !(skip_special_tokens && special(&token)) {
                decoding.add(token, added, &mut text);
            }
        }
        decoding.finish(&mut text);
        match decoding.failure() {
            Some(reason) => Err(TextError::Failed(reason.to_owned())),
            None => Ok(text),
        }
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
        Codec::open(&path)
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

    #[test]
    fn a_tokenizer_without_a_decoder_puts_spaces_between_tokens() {
        let codec = codec(&word_level("", "")).unwrap();
        assert_eq!(codec.decode(&[], false).unwrap(), "");
        assert_eq!(codec.decode(&[7, 0, 7], false).unwrap(), "b a b");
    }

    #[test]
    fn spaces_before_punctuation_are_closed() {
        let text = r#"{"model":{"type":"WordLevel","vocab":{"I":0,"'m":1,"no":2,",":3,"'":4,"?":5},"unk_token":"I"}}"#;
        let mut codec = codec(text).unwrap();
        codec.clean_up_spaces();
        assert_eq!(codec.decode(&[0, 1, 2, 3, 2, 4, 2, 5], false).unwrap(), "I'm no, no'no?");
    }

    #[test]
    fn a_text_that_takes_too_long_is_an_error() {
        let regex = "(?:(?:a|a){17}[^a!]|a)";
        let step = format!(r#""normalizer":{{"type":"Replace","pattern":{{"Regex":"{regex}"}},"content":"x"}},"#);
        let codec = codec(&word_level("", &step)).unwrap();
        let error = codec.encode(&"a".repeat(20_000), false).unwrap_err().to_string();
        assert!(error.contains("it was stopped after 5 seconds"), "{error}");
    }

    #[test]
    fn tables_that_contradict_each_other_are_an_error() {
        let prefix =
            r###"{"model":{"type":"BPE","continuing_subword_prefix":"##","vocab":{"a":0,"b":1},"merges":["a b"]}}"###;
        let replace = r#""normalizer":{"type":"Replace","pattern":{"String":""},"content":"x"},"#;
        let charsmap = r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"/////wAA"},"#;
        let long = format!(r#"{{"id":8,"content":"{}","special":true}}"#, "x".repeat(5000));
        for (text, reason) in [
            (prefix.to_owned(), "its tables contradict each other"),
            (word_level("", replace), "a step replaces the empty text"),
            (word_level("", charsmap), "says that 4294967295 follow"),
            (word_level(&long, ""), "an added token has 5000 bytes"),
        ] {
            let error = codec(&text).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}, expected {reason}");
        }
    }

    #[test]
    fn an_added_token_that_explodes_is_an_error() {
        let step = format!(r#"{{"type":"Replace","pattern":{{"String":"x"}},"content":"{}"}}"#, "x".repeat(1000));
        let steps = format!(r#""normalizer":{{"type":"Sequence","normalizers":[{}]}},"#, vec![step; 4].join(","));
        let token = r#"{"id":8,"content":"xxx","special":false,"single_word":false,"lstrip":false,"rstrip":false,"normalized":true}"#;
        let error = codec(&word_level(token, &steps)).err().unwrap().to_string();
        assert!(error.contains("its normalizer makes 3000 bytes of a text of 3"), "{error}");
        let mut codec = codec(&word_level("", &steps)).unwrap();
        let error = codec.add_tokens(&[AddedToken::from("xxx", false)]).unwrap_err().to_string();
        assert!(error.contains("its normalizer makes 3000 bytes"), "{error}");
    }

    #[test]
    fn a_text_that_explodes_or_is_too_long_is_an_error() {
        let long = "x".repeat(100);
        let steps = vec![format!(r#"{{"type":"Replace","pattern":{{"String":"x"}},"content":"{long}"}}"#); 8].join(",");
        let codec =
            codec(&word_level("", &format!(r#""normalizer":{{"type":"Sequence","normalizers":[{steps}]}},"#))).unwrap();
        let error = codec.encode(&"x".repeat(1000), false).unwrap_err().to_string();
        assert_eq!(error, "the tokenizer failed: its normalizer makes 100000 bytes of a text of 1000");
        assert_eq!(codec.encode("a b", false).unwrap(), [0, 7]);
        let error = codec.encode(&"a".repeat(MAX_TEXT_BYTES + 1), false).unwrap_err();
        assert!(matches!(error, TextError::TextTooLong { .. }), "{error}");
    }
}
