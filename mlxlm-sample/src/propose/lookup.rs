//! Proposals from what the text has said before: exact prompt lookup.
//!
//! A [`SuffixIndex`] over the prompt and all generated tokens finds the latest place where the text's end stood before, in constant
//! time for each token. The longer the match, the more tokens are proposed.
//!
//! Unlike the fork's `prompt_lookup_generate_step` it also looks at what was generated, and its text is that of plain decoding for
//! every kind of cache.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Cursor, Proposer, Scene, SharedIndex, SuffixIndex};
use crate::Result;

/// Proposes how the text went on where its end stood before.
#[derive(Debug, Default)]
pub struct PromptLookup {
    index: SuffixIndex,
    /// Texts of others, and where the end of this one stands among them.
    shared: Option<(Rc<RefCell<SharedIndex>>, Cursor)>,
    /// Tokens of the text that the index knows.
    known: usize,
    min_match: usize,
}

/// The shortest end of the text that is looked up, as in the fork.
const MIN_MATCH: usize = 3;

impl PromptLookup {
    /// Looks up ends of at least three tokens.
    pub fn new() -> Self {
        Self::with_min_match(MIN_MATCH)
    }

    /// Looks up ends of at least so many tokens.
    pub fn with_min_match(min_match: usize) -> Self {
        Self { index: SuffixIndex::new(), shared: None, known: 0, min_match: min_match.max(1) }
    }

    /// Looks up texts of others too, where those know a longer end of this one. Who owns them adds to them.
    #[must_use]
    pub fn with_shared(mut self, shared: Rc<RefCell<SharedIndex>>) -> Self {
        self.shared = Some((shared, Cursor::default()));
        self
    }

    /// Begins with tokens that were read before the sequence came, as by caches that it goes on from.
    #[must_use]
    pub fn with_text_before(mut self, tokens: &[u32]) -> Self {
        tokens.iter().for_each(|&id| self.push(id));
        self
    }

    fn push(&mut self, id: u32) {
        self.index.push(id);
        if let Some((shared, cursor)) = &mut self.shared {
            shared.borrow().advance(cursor, id);
        }
    }
}

impl Proposer for PromptLookup {
    fn propose(&mut self, scene: &Scene) -> Result<Vec<u32>> {
        scene.text[self.known..].iter().for_each(|&id| self.push(id));
        self.known = scene.text.len();
        let (own, own_len) = self.index.propose(scene.most, self.min_match);
        let Some((shared, cursor)) = &self.shared else { return Ok(own) };
        let (others, len) = shared.borrow().propose(cursor, scene.most, self.min_match);
        Ok(if others.is_empty() || len <= own_len { own } else { others })
    }
}
