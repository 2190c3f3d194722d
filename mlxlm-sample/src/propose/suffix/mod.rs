//! What came after the same tokens before: a suffix automaton over the prompt and the answer so far.
//!
//! SAM-Decoding (arXiv:2411.10666) and SuffixDecoding (arXiv:2411.04975). Texts repeat themselves: an edit repeats the file, an
//! agent repeats its tools' output. The automaton knows, after every token, the longest end of the text that was there
//! before, and what came after it is a good guess of what comes next.
//!
//! Unusual:
//! - Of several earlier places the most recent one is taken, not the first as in SAM-Decoding. (Where one end of the text is
//!   nested in another more than 32 times over, as in a long run of one token, an older place may be taken for the short ones.)
//! - A guess is at most as long as the match: what has matched for long goes on for long.
//! - A guess that reaches the end of the text goes on with itself, so that a text with a period is continued.
//! - Only what was accepted is pushed; nothing is ever taken back.
//!
//! A token takes 60 to 120 bytes: less where tokens are many, more where few tokens are mixed.

mod automaton;
mod shared;
#[cfg(test)]
mod tests;

use automaton::{Automaton, Place};
pub use shared::{Cursor, SharedIndex};

/// The tokens of one text, and where the end of it was before.
///
/// ```
/// use mlxlm_sample::propose::SuffixIndex;
///
/// let mut index = SuffixIndex::new();
/// index.extend([7, 1, 2, 3, 4, 5, 9, 1, 2, 3]);
/// assert_eq!(index.match_len(), 3);
/// assert_eq!(index.propose(10, 2), (vec![4, 5, 9], 3));
/// assert_eq!(index.propose(2, 2), (vec![4, 5], 3));
/// assert_eq!(index.propose(10, 4), (vec![], 3), "the match is too short");
/// ```
#[derive(Debug, Clone, Default)]
pub struct SuffixIndex {
    automaton: Automaton,
    /// The longest end of the text that was there before, and where it was.
    earlier: Option<Place>,
}

impl SuffixIndex {
    /// An index of no tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a token, in constant time on average. After two thousand million tokens nothing is learned any more.
    pub fn push(&mut self, token: u32) {
        self.earlier = self.automaton.push(token);
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        self.automaton.tokens()
    }

    /// How many of the last tokens were there before, in this order.
    pub fn match_len(&self) -> usize {
        self.earlier.map_or(0, |place| place.len)
    }

    /// Tokens that may come next, at most `most` and at most as many as match, and how many match. None if fewer than
    /// `min_match` do.
    pub fn propose(&self, most: usize, min_match: usize) -> (Vec<u32>, usize) {
        let Some(place) = self.earlier else { return (Vec::new(), 0) };
        if place.len < min_match {
            return (Vec::new(), place.len);
        }
        let tokens = self.tokens();
        // What comes after the place, and after the end of the text the guess itself.
        let period = tokens.len() - place.end;
        let guess = (0..most.min(place.len)).map(|at| tokens[place.end + at % period]).collect();
        (guess, place.len)
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.automaton.bytes()
    }
}

impl Extend<u32> for SuffixIndex {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, tokens: T) {
        tokens.into_iter().for_each(|token| self.push(token));
    }
}
