//! The detokenizer for every tokenizer: decodes the tokens of the current line again and again.
//!
//! Reference: `NaiveStreamingDetokenizer` of `mlx_lm/tokenizer_utils.py` 0.32.2. Its cost is the square of the longest line.

use crate::text::codec::Codec;

use super::Growing;

/// The lines that are complete, and the tokens of the one that is not.
#[derive(Debug)]
pub(super) struct Naive {
    /// Whether the tokenizer removes the space before punctuation, so that a last space may still go.
    cleans_spaces: bool,
    complete: Growing,
    line: Vec<u32>,
    /// `complete`, with the readable part of the line.
    shown: Growing,
}

impl Naive {
    pub(super) fn new(codec: &Codec) -> Self {
        let probe = codec.encode("a ,b", false).and_then(|ids| codec.decode(&ids, false));
        Self {
            cleans_spaces: probe.is_ok_and(|text| !text.contains(" ,")),
            complete: Growing::default(),
            line: Vec::new(),
            shown: Growing::default(),
        }
    }

    pub(super) fn add(&mut self, id: u32) {
        self.line.push(id);
    }

    /// The readable text and its number of characters; a line that has ended is complete from then on.
    pub(super) fn refresh(&mut self, codec: &Codec) -> (&str, usize) {
        if !self.line.is_empty() {
            let decoded = decode(codec, &self.line);
            let mut line = decoded.as_str();
            if line.ends_with('\u{fffd}') {
                line = line.trim_end_matches('\u{fffd}');
            } else if self.cleans_spaces {
                line = line.strip_suffix(' ').unwrap_or(line);
            }
            self.shown.text.truncate(self.complete.text.len());
            self.shown.chars = self.complete.chars;
            self.shown.push(line);
            if line.ends_with('\n') {
                self.complete.push(line);
                self.line.clear();
            }
        }
        (&self.shown.text, self.shown.chars)
    }

    pub(super) fn finalize(&mut self, codec: &Codec) {
        self.complete.push(&decode(codec, &self.line));
        self.line.clear();
        self.shown = Growing { text: self.complete.text.clone(), chars: self.complete.chars };
    }
}

/// The text of `ids`; what the decoder refuses shows as one replacement character.
fn decode(codec: &Codec, ids: &[u32]) -> String {
    if ids.is_empty() {
        return String::new();
    }
    codec.decode(ids, false).unwrap_or_else(|_| "\u{fffd}".into())
}
