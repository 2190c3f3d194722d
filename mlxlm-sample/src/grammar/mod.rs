//! Grammars: which tokens may come next, so that an answer is JSON of a schema, matches a regular expression, and so on.
//!
//! - [`GrammarSpec`] says what answers must be.
//! - [`Grammars`] compiles it for a tokenizer, within limits ([`GrammarLimits`]), and keeps what it compiled lately.
//! - [`Matcher`] follows one sequence: its [`Mask`] says which tokens may come next, [`Matcher::accept`] takes the one that
//!   was chosen. A copy goes its own way.
//!
//! ```
//! use mlxlm_core::Array;
//! use mlxlm_core::text::{Tokenizer, TokenizerOptions};
//! use mlxlm_sample::grammar::{GrammarSpec, Grammars};
//! use serde_json::json;
//!
//! # fn main() -> Result<(), mlxlm_sample::Error> {
//! let content = json!({
//!     "added_tokens": [{"id": 4, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
//!         "rstrip": false, "normalized": false}],
//!     "decoder": {"type": "Fuse"},
//!     "model": {"type": "BPE", "vocab": {"y": 0, "es": 1, "n": 2, "o": 3, "<end>": 4}, "merges": []},
//! });
//! let options = TokenizerOptions { eos_token_ids: Some(vec![4]), ..TokenizerOptions::default() };
//! let tokenizer = Tokenizer::from_json("tokenizer.json", &content, &options).map_err(mlxlm_core::Error::from)?;
//!
//! let grammars = Grammars::new(&tokenizer, 5);
//! let mut matcher = grammars.matcher(&GrammarSpec::Choice(vec!["yes".into(), "no".into()]))?;
//! let mask = matcher.mask()?;
//! assert!(mask.ids().eq([0, 2]), "an answer begins with `y` or `n`");
//! let logits = mask.apply(&Array::from_slice(&[0.5_f32, 9.0, 1.0, 0.0, 2.0], &[1, 5]))?;
//! assert_eq!(logits.to_vec_exact::<f32>().unwrap()[1..3], [f32::NEG_INFINITY, 1.0]);
//!
//! matcher.accept(2)?;
//! assert!(matcher.mask()?.ids().eq([3]), "`n` goes on with `o`");
//! matcher.accept(3)?;
//! assert!(matcher.is_over());
//! # Ok(())
//! # }
//! ```
//!
//! The work is done by the crate `llguidance` (parser of Earley over lexemes that are derivatives of regular expressions); here
//! are the tokens, the limits and the errors. What it cannot express is an error that names it.
//!
//! Unusual:
//! - Between the tokens of JSON there is little white space: no model writes blanks until its tokens are used up.
//! - A grammar that no answer can satisfy is refused before the first token, wherever that can be seen: nothing to begin with, or
//!   a rule that only ever needs itself again.
//! - Tokens with a meaning of their own (special tokens, those that end a text, the marks around thinking) never stand for
//!   the letters that they are spelled with. A Lark grammar may ask for them by name.

mod cache;
mod compile;
mod error;
mod grammars;
mod limits;
mod mask;
mod matcher;
mod outline;
mod parts;
mod spec;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use error::GrammarError;
pub use grammars::Grammars;
pub use limits::GrammarLimits;
pub use mask::{Mask, apply_rows};
pub use matcher::Matcher;
pub use parts::Part;
pub use spec::GrammarSpec;
