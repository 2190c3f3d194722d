//! A grammar along one answer.

use std::sync::Arc;

use llguidance::TokenParser;
use llguidance::api::StopReason;

use super::compile::{Failure, guarded};
use super::error::{GrammarError, short};
use super::limits::MAX_FORCED;
use super::mask::Mask;
use super::vocabulary::Vocabulary;

/// Follows a grammar token by token. A copy goes its own way from there; it costs some microseconds and what the answer so far
/// takes.
///
/// Once a step has failed with another error than [`GrammarError::Refused`], all that come after it fail with the same, also
/// those of copies if the grammar has become too complex: copies share what they learn of it.
#[derive(Clone)]
pub struct Matcher {
    parser: TokenParser,
    vocabulary: Arc<Vocabulary>,
    failure: Option<GrammarError>,
}

impl Matcher {
    /// `parser` is a new one.
    pub(super) fn new(mut parser: TokenParser, vocabulary: Arc<Vocabulary>) -> Self {
        parser.start_without_prompt();
        Self { parser, vocabulary, failure: None }
    }

    /// A copy that shares nothing that changes.
    pub(super) fn apart(&self) -> Self {
        Self {
            parser: self.parser.deep_clone(),
            vocabulary: Arc::clone(&self.vocabulary),
            failure: self.failure.clone(),
        }
    }

    /// How many bytes it takes, beside what grows with the source of its grammar.
    pub(super) fn lexer_bytes(&self) -> usize {
        self.parser.parser.lexer_stats().num_bytes
    }

    /// The tokens that may come next: those that end the text where it may end, and no others once it is over.
    pub fn mask(&mut self) -> Result<Mask, GrammarError> {
        let size = self.vocabulary.size();
        if self.is_over() {
            return Ok(Mask::of(self.vocabulary.eos(), size));
        }
        let set = self.run(|parser| parser.compute_mask().map_err(|error| error.to_string()))?;
        let mut words: Vec<u32> = set.into();
        words.iter_mut().zip(self.vocabulary.known()).for_each(|(word, known)| *word &= known);
        Ok(Mask::new(words, size))
    }

    /// Goes on by a token.
    ///
    /// # Errors
    /// [`GrammarError::Refused`] where the grammar does not allow it; nothing has changed then.
    pub fn accept(&mut self, id: u32) -> Result<(), GrammarError> {
        if self.accepted_prefix(&[id])? == 0 {
            return Err(GrammarError::Refused { id });
        }
        if self.is_over() {
            return Ok(());
        }
        self.run(|parser| {
            parser.consume_token(id).and_then(|_| parser.check_stop()).map(drop).map_err(|error| error.to_string())
        })
    }

    /// How many of these tokens the grammar allows, one after the other, up to one that ends the text; the matcher stays where it
    /// is. A text that is forced may be spelled in other tokens than [`Self::mask`] allows.
    pub fn accepted_prefix(&mut self, ids: &[u32]) -> Result<usize, GrammarError> {
        if self.is_over() {
            return Ok(ids.first().map_or(0, |id| usize::from(self.vocabulary.ends(*id))));
        }
        let known = ids.iter().position(|id| *id as usize >= self.vocabulary.size()).unwrap_or(ids.len());
        self.run(|parser| parser.validate_tokens_raw(&ids[..known]).map_err(|error| error.to_string()))
    }

    /// The masks at each place of tokens that somebody proposes: what may come instead of each of them, and what may come after
    /// the last. They end at the first token that the grammar does not allow; the matcher stays where it is.
    pub fn masks_along(&mut self, ids: &[u32]) -> Result<Vec<Mask>, GrammarError> {
        let mut masks = vec![self.mask()?];
        let can_go_back = self.parser.parser.grammar().lexer_spec().can_rollback();
        let start = (!can_go_back).then(|| self.clone());
        let mut taken = 0;
        for id in ids {
            if self.is_over() || !masks.last().is_some_and(|mask| mask.allows(*id)) {
                break;
            }
            self.accept(*id)?;
            taken += 1;
            masks.push(self.mask()?);
        }
        match start {
            Some(start) => *self = start,
            None => self.run(|parser| parser.rollback(taken).map_err(|error| error.to_string()))?,
        }
        Ok(masks)
    }

    /// Tokens that must come next, because the grammar leaves no other text; the matcher stays where it is. They are those
    /// that the tokenizer would make of that text, without the last ones where the text after it may change them. At most 256
    /// come at once.
    pub fn forced(&mut self) -> Result<Vec<u32>, GrammarError> {
        if self.is_over() {
            return Ok(Vec::new());
        }
        let mut ids = self.run(|parser| Ok(parser.compute_ff_tokens()))?;
        ids.truncate(MAX_FORCED);
        let allowed = self.accepted_prefix(&ids)?;
        ids.truncate(allowed);
        Ok(ids)
    }

    /// Goes on by the tokens that must come next, and gives them.
    pub fn fast_forward(&mut self) -> Result<Vec<u32>, GrammarError> {
        let ids = self.forced()?;
        ids.iter().try_for_each(|id| self.accept(*id))?;
        Ok(ids)
    }

    /// Whether the answer is whole and nothing can come after it, or its end was accepted.
    pub fn is_over(&self) -> bool {
        self.failure.is_none() && self.parser.stop_reason() != StopReason::NotStopped
    }

    /// Whether the answer may end here.
    pub fn can_end(&mut self) -> Result<bool, GrammarError> {
        if self.is_over() {
            return Ok(true);
        }
        self.run(|parser| Ok(parser.is_accepting()))
    }

    /// Has the parser do something; what fails once stays failed.
    fn run<T>(&mut self, work: impl FnOnce(&mut TokenParser) -> Result<T, String>) -> Result<T, GrammarError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let failure = match guarded(|| work(&mut self.parser)) {
            Ok(result) => return Ok(result),
            Err(Failure::Panic(reason)) => GrammarError::Failed { reason },
            Err(Failure::Error(reason)) => match self.parser.stop_reason() {
                StopReason::NoExtensionBias => {
                    let reason = "no token can come next".to_owned();
                    GrammarError::Unsatisfiable { reason }
                }
                StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                    GrammarError::TooComplex { reason: short(&reason) }
                }
                _ => GrammarError::Failed { reason: short(&reason) },
            },
        };
        self.failure = Some(failure.clone());
        Err(failure)
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher")
            .field("tokens", &self.parser.num_tokens())
            .field("is_over", &self.is_over())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}
