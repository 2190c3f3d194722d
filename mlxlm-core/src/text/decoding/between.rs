//! One token alone: the bytes that it adds to a text in which others stand before and after it.
//!
//! A grammar looks at tokens in this way. It needs a text that is put together from its tokens, which most decoders make;
//! where neighbours change each other, there are no such bytes.

use super::{Decoding, Part, Step, bytes, fallback};

/// What a token is on its way through the steps.
enum Piece {
    /// Whole characters.
    Text(String),
    /// Bytes that need not be characters.
    Bytes(Vec<u8>),
}

impl Piece {
    fn of(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What earlier steps did to the borders of tokens.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// All tokens are one.
    fused: bool,
    /// Tokens may have been parts of characters, and such tokens in a row are one.
    bytes: bool,
}

impl Seen {
    /// Tokens are still those of the vocabulary.
    fn nothing(self) -> bool {
        !self.fused && !self.bytes
    }
}

impl Decoding {
    /// The bytes that a token adds between two others; nothing where that depends on which they are.
    pub(crate) fn between(&self, token: String, added: bool) -> Option<Vec<u8>> {
        let (mut piece, mut seen) = (Piece::Text(token), Seen::default());
        for step in &self.steps {
            piece = step.between(piece, added, &mut seen)?;
        }
        Some(piece.into_bytes())
    }
}

impl Step {
    fn between(&self, piece: Piece, added: bool, seen: &mut Seen) -> Option<Piece> {
        let text = match (self, piece) {
            (Self::Replace(step), piece @ Piece::Bytes(_)) => return step.is_of_one_byte().then_some(piece),
            (Self::Fuse, piece @ Piece::Bytes(_)) => {
                seen.fused = true;
                return Some(piece);
            }
            (Self::Strip(_), piece @ Piece::Bytes(_)) => return seen.fused.then_some(piece),
            (_, Piece::Bytes(_)) => return None,
            (_, Piece::Text(text)) => text,
        };
        match self {
            Self::Spaces { .. } => Some(Piece::Text(format!(" {text}"))),
            Self::Fuse => {
                seen.fused = true;
                Some(Piece::Text(text))
            }
            Self::Bytes(_) if seen.nothing() => {
                *seen = Seen { fused: true, bytes: true };
                Some(Piece::of(bytes::bytes_of(&text).filter(|_| !added).unwrap_or_else(|| text.into_bytes())))
            }
            Self::Fallback(_) if seen.nothing() => {
                seen.bytes = true;
                Some(fallback::byte_of(&text).map_or(Piece::Text(text), |byte| Piece::of(vec![byte])))
            }
            Self::Replace(step) => {
                let certain = seen.nothing() || step.is_of_one_byte() || (!seen.bytes && step.is_of_one_character());
                certain.then(|| self.alone(text))
            }
            // In one long token only the ends of the text are cut.
            Self::Strip(_) if seen.fused => Some(Piece::Text(text)),
            Self::Strip(_) if seen.nothing() => Some(self.alone(text)),
            Self::Library(step) if seen.nothing() => step.between(text).map(Piece::Text),
            Self::Bytes(_) | Self::Fallback(_) | Self::Strip(_) | Self::Library(_) => None,
        }
    }

    /// What the step makes of a whole token.
    fn alone(&self, text: String) -> Piece {
        let mut out = Vec::new();
        self.clone().take(Part::token(text), &mut out);
        Piece::Text(out.into_iter().map(|part| part.text).collect())
    }
}
