//! Grammars of one tokenizer: compiled within limits, and kept.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::ParserFactory;
use llguidance::toktrie::InferenceCapabilities;
use mlxlm_core::text::Tokenizer;

use super::cache::Cache;
use super::compile::{Engine, Failure, compile, guarded};
use super::error::GrammarError;
use super::limits::{GrammarLimits, parser_limits};
use super::matcher::Matcher;
use super::parts::Part;
use super::spec::GrammarSpec;
use super::vocabulary::{Vocabulary, environment, markup};

/// Compiles grammars for a tokenizer. Threads may share it.
///
/// The first grammar prepares the vocabulary, which takes half a second for 128,000 tokens, and 45 MB. Then a grammar takes some
/// milliseconds to compile, and some microseconds if it was used lately.
pub struct Grammars {
    tokenizer: Tokenizer,
    vocab_size: usize,
    limits: GrammarLimits,
    engine: OnceLock<Result<Arc<Engine>, GrammarError>>,
    cache: Mutex<Cache>,
    /// How many threads compile.
    running: Arc<AtomicUsize>,
}

impl Grammars {
    /// Grammars for a tokenizer and a model whose logits have `vocab_size` entries. Logits often have more entries than there
    /// are tokens; those are never allowed.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize) -> Self {
        Self::with_limits(tokenizer, vocab_size, GrammarLimits::default())
    }

    /// The same with limits of the caller's.
    pub fn with_limits(tokenizer: &Tokenizer, vocab_size: usize, limits: GrammarLimits) -> Self {
        Self {
            tokenizer: tokenizer.clone(),
            vocab_size,
            limits,
            engine: OnceLock::new(),
            cache: Mutex::default(),
            running: Arc::default(),
        }
    }

    /// A matcher for a new answer.
    ///
    /// # Errors
    /// Where the grammar is not one, asks for something that is not supported, is beyond the limits, or is seen to be
    /// satisfied by nothing.
    pub fn matcher(&self, spec: &GrammarSpec) -> Result<Matcher, GrammarError> {
        let key = spec.check(&self.limits)?;
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key);
        if let Some(matcher) = cached {
            return Ok(matcher);
        }
        let engine = self.engine.get_or_init(|| prepare(&self.tokenizer, self.vocab_size)).as_ref();
        let matcher = compile(engine.map_err(Clone::clone)?, spec, &self.limits, &self.running)?;
        let own = matcher.apart();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.put(key, matcher, self.limits.cached, self.limits.cached_bytes);
        Ok(own)
    }

    /// A text of a template as parts: tokens with a meaning of their own as such, and what is between them as text.
    pub fn markup(&self, text: &str) -> Vec<Part> {
        markup(&self.tokenizer, text)
    }

    /// How many compiled grammars are kept.
    pub fn cached(&self) -> usize {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars")
            .field("vocab_size", &self.vocab_size)
            .field("limits", &self.limits)
            .field("cached", &self.cached())
            .finish_non_exhaustive()
    }
}

/// Sorts the vocabulary into tries.
fn prepare(tokenizer: &Tokenizer, vocab_size: usize) -> Result<Arc<Engine>, GrammarError> {
    let build = || {
        let vocabulary = match Vocabulary::new(tokenizer, vocab_size) {
            Ok(vocabulary) => Arc::new(vocabulary),
            Err(error) => return Ok(Err(error)),
        };
        let mut factory = ParserFactory::new(
            &environment(&vocabulary),
            InferenceCapabilities::default(),
            &llguidance::earley::SlicedBiasComputer::json_slices(),
        )
        .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = parser_limits();
        Ok(Ok(Arc::new(Engine { factory, vocabulary })))
    };
    guarded(build).unwrap_or_else(|failure| match failure {
        Failure::Error(reason) | Failure::Panic(reason) => Err(GrammarError::Tokenizer { reason }),
    })
}
