//! What can go wrong with a grammar.

use std::time::Duration;

use mlxlm_core::Hint;

/// How much of the parser's message is shown.
const MAX_REASON_CHARACTERS: usize = 300;

/// An error of a grammar, when it is compiled or while an answer follows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The grammar is not one, or asks for something that is not supported.
    #[error("the {kind} cannot be used as a grammar: {reason}")]
    Bad {
        /// What it is, such as `JSON schema`.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// No answer can satisfy the grammar, or none that begins like this one.
    #[error("nothing satisfies the grammar: {reason}")]
    Unsatisfiable {
        /// How that was seen.
        reason: String,
    },

    /// The grammar is larger than is compiled.
    #[error("the {kind} has {got} {what}, and at most {limit} are compiled")]
    TooLarge {
        /// What it is, such as `JSON schema`.
        kind: &'static str,
        /// What there is too much of, such as `bytes`.
        what: &'static str,
        /// How much there is.
        got: usize,
        /// How much there may be.
        limit: usize,
    },

    /// Compiling takes longer than it may.
    #[error("the {kind} was not compiled within {limit:?}")]
    TooSlow {
        /// What it is, such as `JSON schema`.
        kind: &'static str,
        /// The limit.
        limit: Duration,
    },

    /// Other grammars are being compiled already, as many as may be at once.
    #[error("{running} other grammars are being compiled")]
    Busy {
        /// How many there are.
        running: usize,
    },

    /// Following the grammar takes more states than it may.
    #[error("the grammar has become too complex: {reason}")]
    TooComplex {
        /// What there is too much of.
        reason: String,
    },

    /// The tokens do not make a text that a grammar could look at.
    #[error("grammars do not work with this tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },

    /// A token that the grammar does not allow here.
    #[error("the grammar does not allow token {id} here")]
    Refused {
        /// The id.
        id: u32,
    },

    /// The parser failed in a way that it should not.
    #[error("the grammar's parser failed: {reason}")]
    Failed {
        /// What it says.
        reason: String,
    },
}

impl Hint for GrammarError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unsatisfiable { .. } => Some("give every part of the grammar at least one text that can end".into()),
            Self::TooLarge { .. } | Self::TooSlow { .. } => {
                Some("split the grammar, or leave out parts that are not needed".into())
            }
            Self::Busy { .. } => Some("try again in some seconds".into()),
            Self::TooComplex { .. } => Some(
                "use smaller repetition counts, and rules that call themselves at their beginning, not their end"
                    .into(),
            ),
            Self::Bad { .. } | Self::Tokenizer { .. } | Self::Refused { .. } | Self::Failed { .. } => None,
        }
    }
}

/// What the parser says in one short line.
pub(super) fn short(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default().trim();
    let mut text: String = line.chars().take(MAX_REASON_CHARACTERS).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_short_line() {
        assert_eq!(short("one\ntwo"), "one");
        assert_eq!(short(""), "");
        assert_eq!(short(&"é".repeat(400)), "é".repeat(300) + "…");
    }
}
