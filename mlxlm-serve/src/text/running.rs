//! The text of one choice while it grows: tokens in, pieces of text out, up to a stop string.

use mlxlm_core::text::{Detokenizer, Tokenizer};

use super::StopStrings;

/// Text that has become certain with a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The text; often empty.
    pub(crate) text: String,
    /// The stop string that the token completed, by its place in the request's list.
    pub(crate) stopped: Option<usize>,
}

/// Turns the tokens of one choice into text.
#[derive(Debug)]
pub(crate) struct RunningText {
    detokenizer: Detokenizer,
    stop: StopStrings,
}

impl RunningText {
    /// An empty text that ends before any of these strings.
    pub(crate) fn new(tokenizer: &Tokenizer, stop: &[String]) -> Self {
        Self { detokenizer: tokenizer.detokenizer(), stop: StopStrings::new(stop) }
    }

    /// Takes a token.
    pub(crate) fn push(&mut self, id: u32) -> Piece {
        self.detokenizer.add_token(id);
        self.release()
    }

    /// No token comes any more: the rest of the text.
    pub(crate) fn finish(&mut self) -> Piece {
        self.detokenizer.finalize();
        let mut piece = self.release();
        if piece.stopped.is_none() {
            piece.text += &self.stop.finish();
        }
        piece
    }

    fn release(&mut self) -> Piece {
        let released = self.stop.push(&self.detokenizer.last_segment());
        Piece { text: released.text, stopped: released.stopped }
    }
}
