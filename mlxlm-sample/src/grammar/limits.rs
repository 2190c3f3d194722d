//! How much a grammar may take.

use std::time::Duration;

use llguidance::api::ParserLimits;

/// What compiling a grammar may take, and how many compiled ones are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrammarLimits {
    /// The longest JSON schema or list of choices, in bytes.
    pub schema_bytes: usize,
    /// The longest regular expression or Lark grammar, in bytes.
    pub source_bytes: usize,
    /// How long compiling may take. What takes longer is given up; it ends by itself, since every step of it is counted.
    pub time: Duration,
    /// How many grammars are compiled at once; those that were given up count until they end.
    pub compiling: usize,
    /// How many compiled grammars are kept.
    pub cached: usize,
    /// How many bytes they take together, as far as that is known.
    pub cached_bytes: usize,
}

impl Default for GrammarLimits {
    fn default() -> Self {
        Self {
            schema_bytes: 256 << 10,
            source_bytes: 64 << 10,
            time: Duration::from_secs(10),
            compiling: 4,
            cached: 64,
            cached_bytes: 64 << 20,
        }
    }
}

/// The stack of a thread that compiles; only what is used of it takes memory. The largest
/// schemas and grammars that are compiled took 64 MB.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// The most tokens that [`Matcher::forced`](super::Matcher::forced) gives at once.
pub(super) const MAX_FORCED: usize = 256;

/// What the parser may take.
pub(super) fn parser_limits() -> ParserLimits {
    ParserLimits {
        // Half a second, and 80 MB, for what a regular expression forces before the first token.
        initial_lexer_fuel: 500_000,
        // A state takes up to 1.5 KB, and stays as long as its sequence.
        max_lexer_states: 50_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}
