//! Streaming detokenizers: text that grows token by token and is never taken back once read.
//!
//! Reference: `StreamingDetokenizer` of `mlx_lm/tokenizer_utils.py` 0.32.2. Which of the three kinds serves a tokenizer is
//! told from the decoder in its `tokenizer.json`.
//!
//! Unusual: the reference's map covers the ids 0 to n - 1 of n tokens, so a vocabulary with gaps loses its last tokens;
//! here every id of the vocabulary has its token, and only an id without one is "past the map".

mod bpe;
mod naive;
mod spm;

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::text::codec::Codec;

/// Which streaming detokenizer a tokenizer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetokenizerKind {
    /// Decodes the current line again for every token; right for every tokenizer.
    Naive,
    /// For sentencepiece vocabularies with byte tokens.
    Spm {
        /// Whether the text loses one leading space.
        trim_space: bool,
    },
    /// For byte-level BPE, as in GPT-2.
    Bpe,
}

impl DetokenizerKind {
    /// The kind for the `decoder` of a `tokenizer.json`.
    pub fn of(decoder: &Value) -> Self {
        let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let bytes = json!({"type": "ByteFallback"});
        let fuse = json!({"type": "Fuse"});
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
        if *decoder == json!({"type": "Sequence", "decoders": [replace, bytes, fuse, strip]}) {
            Self::Spm { trim_space: true }
        } else if *decoder == json!({"type": "Sequence", "decoders": [replace, bytes, fuse]}) {
            Self::Spm { trim_space: false }
        } else if decoder.get("type") == Some(&json!("ByteLevel")) {
            Self::Bpe
        } else {
            Self::Naive
        }
    }
}

/// Text from tokens, one at a time. Use one for each text; [`crate::text::Tokenizer::detokenizer`] makes them cheaply.
pub struct Detokenizer {
    codec: Arc<Codec>,
    state: State,
    tokens: Vec<u32>,
    /// Characters of the text that `last_segment` has given out.
    read_chars: usize,
}

enum State {
    Naive(naive::Naive),
    Spm(spm::Spm),
    Bpe(bpe::Bpe),
}

/// A text that only grows, with its length in characters.
#[derive(Debug, Default)]
struct Growing {
    text: String,
    chars: usize,
}

impl Growing {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.chars += text.chars().count();
    }
}

impl Detokenizer {
    pub(crate) fn new(codec: Arc<Codec>, kind: DetokenizerKind) -> Self {
        let state = match kind {
            DetokenizerKind::Naive => State::Naive(naive::Naive::new(&codec)),
            DetokenizerKind::Spm { trim_space } => State::Spm(spm::Spm::new(trim_space)),
            DetokenizerKind::Bpe => State::Bpe(bpe::Bpe::default()),
        };
        Self { codec, state, tokens: Vec::new(), read_chars: 0 }
    }

    /// Which of the three this is.
    pub fn kind(&self) -> DetokenizerKind {
        match &self.state {
            State::Naive(_) => DetokenizerKind::Naive,
            State::Spm(spm) => DetokenizerKind::Spm { trim_space: spm.trim_space },
            State::Bpe(_) => DetokenizerKind::Bpe,
        }
    }

    /// Takes the next token. An id that the vocabulary does not have gives "!" in byte-level BPE, as in the reference,
    /// U+FFFD in sentencepiece, and nothing in the naive detokenizer.
    pub fn add_token(&mut self, id: u32) {
        self.tokens.push(id);
        match &mut self.state {
            State::Naive(naive) => naive.add(id),
            State::Spm(spm) => spm.add(self.codec.token(id).as_deref()),
            State::Bpe(bpe) => bpe.add(self.codec.token(id).as_deref()),
        }
    }

    /// Gives out what was held back for want of more tokens; the text is then that of all tokens.
    pub fn finalize(&mut self) {
        match &mut self.state {
            State::Naive(naive) => naive.finalize(&self.codec),
            State::Spm(spm) => spm.finalize(),
            State::Bpe(bpe) => bpe.finalize(),
        }
    }

    /// The readable text so far.
    pub fn text(&mut self) -> &str {
        self.refresh().0
    }

    /// What of the text is new since this was last called.
    pub fn last_segment(&mut self) -> String {
        let read = self.read_chars;
        let (text, chars) = self.refresh();
        let fresh = chars.saturating_sub(read);
        let start = text.char_indices().rev().nth(fresh.saturating_sub(1)).map_or(0, |(at, _)| at);
        let segment = if fresh == 0 { String::new() } else { text[start..].to_owned() };
        self.read_chars = chars;
        segment
    }

    /// All tokens added.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Starts a new text.
    pub fn reset(&mut self) {
        *self = Self::new(Arc::clone(&self.codec), self.kind());
    }

    /// The text and its number of characters.
    fn refresh(&mut self) -> (&str, usize) {
        match &mut self.state {
            State::Naive(naive) => naive.refresh(&self.codec),
            State::Spm(spm) => (&spm.out.text, spm.out.chars),
            State::Bpe(bpe) => (&bpe.out.text, bpe.out.chars),
        }
    }
}

impl fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detokenizer").field("kind", &self.kind()).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(decoder: &str, expected: DetokenizerKind) {
        assert_eq!(DetokenizerKind::of(&serde_json::from_str(decoder).unwrap()), expected);
    }

    #[test]
    fn the_kind_is_told_from_the_decoder() {
        let steps =
            r#"{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}"#;
        let sequence = |steps: &str| format!(r#"{{"decoders":[{steps}],"type":"Sequence"}}"#);
        check(&sequence(steps), DetokenizerKind::Spm { trim_space: false });
        let strip = r#"{"type":"Strip","content":" ","start":1,"stop":0}"#;
        check(&sequence(&format!("{steps},{strip}")), DetokenizerKind::Spm { trim_space: true });
        let strip = r#"{"type":"Strip","content":" ","start":2,"stop":0}"#;
        check(&sequence(&format!("{steps},{strip}")), DetokenizerKind::Naive);
        check(r#"{"type":"ByteLevel","add_prefix_space":true}"#, DetokenizerKind::Bpe);
        check(r#"{"type":"Metaspace"}"#, DetokenizerKind::Naive);
        check("null", DetokenizerKind::Naive);
    }
}
