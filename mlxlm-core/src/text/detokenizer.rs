//! Streaming detokenizers: text that grows token by token and is never taken back.
//!
//! Reference: `StreamingDetokenizer` of `mlx_lm/tokenizer_utils.py` 0.32.2.
//!
//! Unusual: the reference has three kinds, two of which drop a leading space, take added tokens for letters of bytes and
//! read rows of byte tokens otherwise than the tokenizer does. Here the pieces put together are [`Tokenizer::decode`] of
//! all ids, for every tokenizer; so far the text is always the beginning of that.
//!
//! [`Tokenizer::decode`]: crate::text::Tokenizer::decode

use std::fmt;
use std::sync::Arc;

use crate::text::codec::Codec;
use crate::text::decoding::Decoding;

/// Text from tokens, one at a time. Use one for each text; [`crate::text::Tokenizer::detokenizer`] makes them cheaply.
pub struct Detokenizer {
    codec: Arc<Codec>,
    decoding: Decoding,
    text: String,
    tokens: Vec<u32>,
    /// Bytes of the text that `last_segment` has given out.
    read: usize,
}

impl Detokenizer {
    pub(crate) fn new(codec: Arc<Codec>) -> Self {
        let decoding = codec.decoding();
        Self { codec, decoding, text: String::new(), tokens: Vec::new(), read: 0 }
    }

    /// Takes the next token. An id that the vocabulary does not have gives nothing.
    pub fn add_token(&mut self, id: u32) {
        self.tokens.push(id);
        if let Some((token, added)) = self.codec.spelled(id) {
            self.decoding.add(token, added, &mut self.text);
        }
    }

    /// Gives out what was held back for want of more tokens; the text is then that of all tokens. [`Self::reset`] comes
    /// before the next text.
    pub fn finalize(&mut self) {
        self.decoding.finish(&mut self.text);
    }

    /// The text so far; no later token changes it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What of the text is new since this was last called.
    pub fn last_segment(&mut self) -> String {
        let segment = self.text.get(self.read..).unwrap_or_default().to_owned();
        self.read = self.text.len();
        segment
    }

    /// All tokens added.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Starts a new text.
    pub fn reset(&mut self) {
        *self = Self::new(Arc::clone(&self.codec));
    }
}

impl fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detokenizer").field("tokens", &self.tokens).field("text", &self.text).finish_non_exhaustive()
    }
}
