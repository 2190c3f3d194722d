//! What answers must be, and what is checked of it before it is compiled.

use std::fmt::Write;

use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use llguidance::derivre::RegexBuilder;
use serde_json::{Value, json};

use super::error::{GrammarError, short};
use super::limits::GrammarLimits;
use super::outline;
use super::parts::{self, Part};

/// The white space between two tokens of JSON: up to four blanks, or one or two ends of line and what is indented after them.
const WHITE_SPACE: &str = r"[ \t]{1,4}|(?:\r?\n){1,2}[ \t]{0,64}";

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GrammarSpec {
    /// JSON of a schema (JSON Schema 2020-12 and earlier drafts; a keyword that cannot be kept is an error that names it).
    /// The properties of an object come in the order of the schema.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// A regular expression that the whole answer matches, in the syntax of Rust's `regex` crate, without assertions inside.
    Regex(String),
    /// A context-free grammar in `llguidance`'s variant of Lark's notation, whose rule `start` is the answer.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Several parts, one after the other.
    Parts(Vec<Part>),
}

impl GrammarSpec {
    /// A JSON schema from its text.
    pub fn json_schema(text: &str) -> Result<Self, GrammarError> {
        match serde_json::from_str(text) {
            Ok(schema) => Ok(Self::JsonSchema(schema)),
            Err(error) => Err(GrammarError::Bad { kind: "JSON schema", reason: error.to_string() }),
        }
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) | Self::JsonObject => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "Lark grammar",
            Self::Choice(_) => "list of choices",
            Self::Parts(_) => "grammar",
        }
    }

    /// Refuses what is too large to be looked at, and gives what tells grammars apart.
    pub(super) fn check(&self, limits: &GrammarLimits) -> Result<String, GrammarError> {
        let kind = self.kind();
        let within = |got, limit| within(kind, got, limit);
        match self {
            Self::JsonObject => Ok("object".into()),
            Self::JsonSchema(schema) => {
                // All before the text is made of it goes without recursion: the levels are not known to be few.
                outline::check(schema, kind)?;
                let key = format!("schema {schema}");
                within(key.len(), limits.schema_bytes)?;
                Ok(key)
            }
            Self::Regex(source) => {
                within(source.len(), limits.source_bytes)?;
                Ok(format!("regex {source}"))
            }
            Self::Lark(source) => {
                within(source.len(), limits.source_bytes)?;
                check_schemas(source)?;
                Ok(format!("lark {source}"))
            }
            Self::Choice(choices) if choices.is_empty() => {
                Err(GrammarError::Unsatisfiable { reason: "there is nothing to choose from".into() })
            }
            Self::Choice(choices) => {
                within(choices.iter().map(|choice| choice.len() + 1).sum(), limits.schema_bytes)?;
                Ok(format!("choice {}", json!(choices)))
            }
            Self::Parts(list) => parts::check(list, limits.schema_bytes),
        }
    }

    /// What the parser is given.
    pub(super) fn source(&self) -> Result<TopLevelGrammar, GrammarError> {
        match self {
            Self::JsonObject => schema_source(json!({"type": "object"})),
            Self::JsonSchema(schema) => schema_source(schema.clone()),
            Self::Regex(source) => {
                // Before it is wrapped into Lark's notation, which would change what is wrong with it.
                let checked = RegexBuilder::new().mk_regex(source);
                let bad = |reason: String| GrammarError::Bad { kind: self.kind(), reason };
                checked.map_err(|error| bad(short(&last_line(&error.to_string()))))?;
                Ok(regex_source(source))
            }
            Self::Lark(source) => Ok(TopLevelGrammar::from_lark(source.clone())),
            Self::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
                Ok(regex_source(&choices.join("|")))
            }
            Self::Parts(list) => Ok(TopLevelGrammar::from_lark(parts::source(list)?)),
        }
    }
}

/// Refuses what is too long.
pub(super) fn within(kind: &'static str, got: usize, limit: usize) -> Result<(), GrammarError> {
    if got > limit { Err(GrammarError::TooLarge { kind, what: "bytes", got, limit }) } else { Ok(()) }
}

/// A schema as its own grammar.
fn schema_source(schema: Value) -> Result<TopLevelGrammar, GrammarError> {
    Ok(TopLevelGrammar::from_json_schema(with_options(schema)?))
}

/// A schema with our options.
pub(super) fn with_options(mut schema: Value) -> Result<Value, GrammarError> {
    match schema {
        Value::Object(_) => {}
        Value::Bool(true) => schema = json!({}),
        Value::Bool(false) => return Err(GrammarError::Unsatisfiable { reason: "the schema is `false`".into() }),
        _ => return Err(GrammarError::Bad { kind: "JSON schema", reason: "it is no object".into() }),
    }
    let options = JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.into()), ..JsonCompileOptions::default() };
    options.apply_to(&mut schema);
    Ok(schema)
}

/// An expression; Lark has no empty ones.
fn regex_source(source: &str) -> TopLevelGrammar {
    TopLevelGrammar::from_regex(if source.is_empty() { "(?:)" } else { source })
}

/// An expression that matches a text, without any letter that could mean something.
fn literal(text: &str) -> String {
    let mut expression = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => expression.push(letter),
            _ => drop(write!(expression, "\\x{{{:x}}}", u32::from(letter))),
        }
    }
    if expression.is_empty() { "(?:)".into() } else { expression }
}

/// Refuses a Lark grammar that holds JSON schemas which are too large.
pub(super) fn check_schemas(source: &str) -> Result<(), GrammarError> {
    schemas_within(source).try_for_each(|schema| outline::check(&schema, "Lark grammar"))
}

/// The JSON schemas that a Lark grammar holds, read as its parser does.
fn schemas_within(source: &str) -> impl Iterator<Item = Value> + '_ {
    let read = |text: &str| serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok();
    source.match_indices("%json").filter_map(move |(at, mark)| read(&source[at + mark.len()..]))
}

/// Errors of expressions show them first, and say what is wrong with them in their last line.
fn last_line(text: &str) -> String {
    text.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_taken_literally() {
        assert_eq!(literal("a.b"), r"a\x{2e}b");
        assert_eq!(literal("日/\n"), r"\x{65e5}\x{2f}\x{a}");
        assert_eq!(literal(""), "(?:)");
    }

    #[test]
    fn schemas_are_found_in_lark() {
        let source = "start: a %json {\"type\": [\"%json 1\"]} | %json\n true %json {";
        let found: Vec<Value> = schemas_within(source).collect();
        assert_eq!(found, [json!({"type": ["%json 1"]}), json!(1), json!(true)]);
    }
}
