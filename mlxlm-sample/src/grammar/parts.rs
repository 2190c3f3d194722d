//! Answers that are put together from parts: thinking before JSON, a call of a tool within its markers.
//!
//! The parts become one grammar in `llguidance`'s variant of Lark's notation. Unlike a grammar of a client's own, its JSON has the same
//! bound on white space as a JSON schema that stands alone.

use std::fmt::Write;

use serde_json::{Value, json};

use super::error::GrammarError;
use super::spec::{with_options, within};

/// A part of an answer. What an answer is made of is a list of them, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// This text.
    Text(String),
    /// A token with a meaning of its own, by its id.
    Token(u32),
    /// Any text, without tokens that have a meaning of their own. A [`Token`](Self::Token) or the end of the answer comes after it.
    Anything,
    /// Any text up to the first place where this one stands, with it. It is not empty.
    Until(String),
    /// Any text that this one is no part of, up to a token or the end of the answer. It is not empty.
    Without(String),
    /// JSON of a schema.
    Json(Value),
    /// Text that an expression matches, in the syntax of Rust's `regex` crate.
    Regex(String),
    /// Text of a grammar in Lark's notation.
    Lark(String),
    /// One of these.
    Either(Vec<Vec<Part>>),
    /// These, so many times.
    Times {
        /// What is repeated.
        parts: Vec<Part>,
        /// The fewest times.
        least: usize,
        /// The most times; `None` is without end.
        most: Option<usize>,
    },
}

/// What tells grammars of parts apart, without recursion into values: the bytes that they take are bounded by `limit_bytes`.
pub(super) fn check(parts: &[Part], limit_bytes: usize) -> Result<String, GrammarError> {
    let source = source(parts)?;
    within("grammar", source.len(), limit_bytes)?;
    Ok(format!("parts {source}"))
}

/// The grammar in Lark's notation.
pub(super) fn source(parts: &[Part]) -> Result<String, GrammarError> {
    let mut rules = Rules::default();
    let start = rules.sequence(parts)?;
    Ok(format!("start: {start}\n{}", rules.text))
}

#[derive(Default)]
struct Rules {
    text: String,
    count: usize,
}

impl Rules {
    fn name(&mut self) -> usize {
        self.count += 1;
        self.count
    }

    fn sequence(&mut self, parts: &[Part]) -> Result<String, GrammarError> {
        let parts = parts.iter().map(|part| self.part(part)).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        // Lark has no empty sequences.
        Ok(if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") })
    }

    fn part(&mut self, part: &Part) -> Result<String, GrammarError> {
        Ok(match part {
            Part::Text(text) if text.is_empty() => String::new(),
            Part::Text(text) => quoted(text),
            Part::Token(id) => format!("<[{id}]>"),
            Part::Anything => {
                let n = self.name();
                self.add(&format!("ANY{n}: /(.|\\n)*/"));
                format!("ANY{n}")
            }
            Part::Until(text) => {
                let n = self.name();
                self.add(&format!("until{n}[lazy]: /(.|\\n)*{}/", expression(text)));
                format!("until{n}")
            }
            Part::Without(text) => {
                let n = self.name();
                self.add(&format!("WITHOUT{n}: /(.|\\n)+/ & ~/(.|\\n)*{}(.|\\n)*/", expression(text)));
                format!("WITHOUT{n}")
            }
            Part::Json(schema) => {
                super::outline::check(schema, "JSON schema")?;
                let n = self.name();
                let schema = with_options(schema.clone())?;
                self.add(&format!("json{n}: %json {schema}"));
                format!("json{n}")
            }
            Part::Regex(source) => {
                let n = self.name();
                let source = if source.is_empty() { "(?:)" } else { source };
                self.add(&format!("RX{n}: {}", slashed(source)));
                format!("RX{n}")
            }
            Part::Lark(source) => {
                super::spec::check_schemas(source)?;
                let n = self.name();
                self.add(&format!("lark{n}: %lark {{\n{source}\n}}"));
                format!("lark{n}")
            }
            Part::Either(ways) if ways.is_empty() => {
                return Err(GrammarError::Unsatisfiable { reason: "there is nothing to choose from".into() });
            }
            Part::Either(ways) => {
                let ways = ways.iter().map(|way| self.sequence(way)).collect::<Result<Vec<_>, _>>()?;
                let n = self.name();
                self.add(&format!("either{n}: {}", ways.join(" | ")));
                format!("either{n}")
            }
            Part::Times { parts, least, most } => {
                let inner = self.sequence(parts)?;
                let n = self.name();
                self.add(&format!("times{n}: {inner}"));
                let most = most.map(|most| most.to_string()).unwrap_or_default();
                match (least, most.as_str()) {
                    (0, "") => format!("times{n}*"),
                    (1, "") => format!("times{n}+"),
                    (0, "1") => format!("times{n}?"),
                    _ => format!("times{n}{{{least},{most}}}"),
                }
            }
        })
    }

    fn add(&mut self, rule: &str) {
        self.text.push_str(rule);
        self.text.push('\n');
    }
}

/// A text in Lark's notation, which is that of JSON without control characters.
fn quoted(text: &str) -> String {
    let mut quoted = json!(text).to_string();
    if quoted.contains('\u{7f}') {
        quoted = quoted.replace('\u{7f}', "\\u007f");
    }
    quoted
}

/// An expression that matches a text.
fn expression(text: &str) -> String {
    let mut expression = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => expression.push(letter),
            // A string takes everything.
            _ => drop(write!(expression, "\\x{{{:x}}}", u32::from(letter))),
        }
    }
    expression
}

/// An expression between slashes.
fn slashed(source: &str) -> String {
    let mut inner = String::with_capacity(source.len() + 2);
    let mut escaped = false;
    for letter in source.chars() {
        match letter {
            '/' if !escaped => inner.push_str("\\/"),
            _ => inner.push(letter),
        }
        escaped = letter == '\\' && !escaped;
    }
    format!("/{inner}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_rules() {
        let parts = [
            Part::Anything,
            Part::Token(7),
            Part::Either(vec![vec![Part::Text("a\n\"".into())], vec![]]),
            Part::Times { parts: vec![Part::Json(json!({"type": "null"}))], least: 0, most: Some(1) },
        ];
        let source = source(&parts).unwrap();
        assert!(source.starts_with("start: ANY1 <[7]> either2 times4?\n"), "{source}");
        assert!(source.contains("either2: \"a\\n\\\"\" | \"\"\n"), "{source}");
    }

    #[test]
    fn slashes_end_no_expression() {
        assert_eq!(slashed(r"a/b\/c\\/"), r"/a\/b\/c\\\//");
        assert_eq!(expression("</a"), r"\x{3c}\x{2f}a");
    }
}
