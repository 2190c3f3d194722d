//! The tools that a request offers, and what the schemas say of their parameters.
//!
//! Formats like XML write every value as plain text. Its type comes from the parameter's schema:
//! `type` (one or a list), `enum`, `const`, `anyOf`, `oneOf`, `allOf`, and `$ref` within the same schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::literal::{number, parse, quoted};
use super::types::Types;

/// The tools of a request: their names, and the schemas of their parameters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    by_name: Arc<BTreeMap<String, Tool>>,
}

#[derive(Debug)]
struct Tool {
    parameters: BTreeMap<String, Parameter>,
}

/// What a schema says of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    types: Types,
    is_required: bool,
}

/// What is done with a value of whose type nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untyped {
    /// It is text.
    Text,
    /// It is what it looks like: JSON or a literal of Python, else text.
    Guess,
}

impl Tools {
    /// The tools of a request, each as `{"type": "function", "function": {"name", "parameters"}}` or as what is in `function`;
    /// `input_schema` is another name of `parameters`. What has no name is passed over, since requests are checked elsewhere.
    pub fn new<'a>(tools: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut by_name = BTreeMap::new();
        for tool in tools {
            let function = tool.get("function").filter(|f| f.is_object()).unwrap_or(tool);
            if let Some(name) = function.get("name").and_then(Value::as_str) {
                let schema = function.get("parameters").or_else(|| function.get("input_schema"));
                by_name.insert(name.to_owned(), Tool { parameters: parameters(schema.unwrap_or(&Value::Null)) });
            }
        }
        Self { by_name: Arc::new(by_name) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether there is a tool of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The names of the tools.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// What is known of a parameter.
    pub(super) fn parameter(&self, tool: &str, parameter: &str) -> Option<Parameter> {
        self.by_name.get(tool)?.parameters.get(parameter).copied()
    }
}

fn parameters(schema: &Value) -> BTreeMap<String, Parameter> {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|list| list.iter().any(|v| v == name));
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties
        .map(|(name, property)| {
            let types = Types::of(property, schema);
            (name.clone(), Parameter { types, is_required: is_required(name) })
        })
        .collect()
}

/// Whether a value is text for certain, so that it may be handed on before its end; `null` may be excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    /// It is text.
    Text,
    /// It is text or `null`.
    TextOrNull,
    /// Its end has to be seen.
    Open,
}

/// What can be said of a value before it is seen. The word `null` is no text where the parameter may be left out, since that is
/// what models mean by it then.
pub(super) fn certainty(parameter: Option<Parameter>, untyped: Untyped) -> Certainty {
    match parameter {
        Some(Parameter { types: Types::STRING, is_required: true }) => Certainty::Text,
        Some(Parameter { types: Types::STRING, is_required: false }) => Certainty::TextOrNull,
        None if untyped == Untyped::Text => Certainty::TextOrNull,
        _ => Certainty::Open,
    }
}

/// The JSON of a value that was written as text.
pub(super) fn convert(text: &str, parameter: Option<Parameter>, untyped: Untyped) -> String {
    let types = parameter.map_or(Types::default(), |p| p.types);
    let word = text.trim();
    let lower = word.to_ascii_lowercase();
    let may_be_null = types.has(Types::NULL) || types == Types::default() || parameter.is_some_and(|p| !p.is_required);
    if lower == "null" && may_be_null || types.has(Types::NULL) && matches!(lower.as_str(), "none" | "nil") {
        return "null".into();
    }
    let parsed = || parse(word);
    if types == Types::default() {
        // A schema that says nothing of the type still asks for text less often than for what looks like a list.
        let wanted = |json: &String| untyped == Untyped::Guess || parameter.is_some() && json.starts_with(['{', '[']);
        return parsed().filter(wanted).unwrap_or_else(|| quoted(text));
    }
    let integer = || number(word).and_then(|n| whole(&n)).filter(|_| types.has(Types::INTEGER));
    let float = || number(word).filter(|_| types.has(Types::NUMBER));
    let boolean = || match lower.as_str() {
        _ if !types.has(Types::BOOLEAN) => None,
        "true" | "1" | "yes" | "on" => Some("true".into()),
        "false" | "0" | "no" | "off" => Some("false".into()),
        _ => None,
    };
    let object = || parsed().filter(|json| types.has(Types::OBJECT) && json.starts_with('{'));
    let array = || parsed().filter(|json| types.has(Types::ARRAY) && json.starts_with('['));
    let string = || types.has(Types::STRING).then(|| quoted(text));
    let fitting = integer().or_else(float).or_else(boolean).or_else(object).or_else(array).or_else(string);
    fitting.or_else(parsed).unwrap_or_else(|| quoted(text))
}

/// A number without a fraction, as an integer.
fn whole(number: &str) -> Option<String> {
    if let Some((digits, fraction)) = number.split_once('.')
        && fraction.bytes().all(|c| c == b'0')
    {
        return Some(digits.to_owned());
    }
    if number.bytes().all(|c| c.is_ascii_digit() || c == b'-') {
        return Some(number.to_owned());
    }
    let value: f64 = number.parse().ok()?;
    // Up to here every integer is an f64.
    (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then(|| format!("{value:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools(parameters: &Value) -> Tools {
        Tools::new(&[json!({"type": "function", "function": {"name": "f", "parameters": parameters}})])
    }

    /// The value of `p` by its schema.
    fn converted(text: &str, schema: &Value, required: bool, untyped: Untyped) -> Value {
        let required = if required { json!(["p"]) } else { json!([]) };
        let defs = json!({"Size": {"type": "integer"}, "Loop": {"$ref": "#/$defs/Loop"}});
        let tools = tools(&json!({"properties": {"p": schema}, "required": required, "$defs": defs}));
        serde_json::from_str(&convert(text, tools.parameter("f", "p"), untyped)).unwrap()
    }

    #[test]
    fn values_become_what_the_schema_says() {
        for (text, schema, value) in [
            ("1", json!({"type": "integer"}), json!(1)),
            (" 1 ", json!({"type": "integer"}), json!(1)),
            ("2.0", json!({"type": "integer"}), json!(2)),
            ("1e3", json!({"type": "integer"}), json!(1000)),
            ("2.5", json!({"type": "integer"}), json!(2.5)),
            ("two", json!({"type": "integer"}), json!("two")),
            ("1", json!({"type": "string"}), json!("1")),
            (" a\n", json!({"type": "string"}), json!(" a\n")),
            ("1", json!({"type": "number"}), json!(1)),
            ("1.5", json!({"type": "float"}), json!(1.5)),
            ("True", json!({"type": "boolean"}), json!(true)),
            ("0", json!({"type": "boolean"}), json!(false)),
            ("{'a': None}", json!({"type": "object"}), json!({"a": null})),
            ("[1, 2]", json!({"type": ["array", "null"]}), json!([1, 2])),
            ("None", json!({"type": ["array", "null"]}), json!(null)),
            ("null", json!({"type": "string"}), json!("null")),
            ("null", json!({"type": ["string", "null"]}), json!(null)),
            ("42", json!({"type": ["null", "integer", "string"]}), json!(42)),
            ("2 dollars", json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!("2 dollars")),
            ("{not json", json!({"type": ["object", "string"]}), json!("{not json")),
            ("celsius", json!({"enum": ["celsius", "kelvin"]}), json!("celsius")),
            ("1", json!({"enum": ["1", "2"]}), json!("1")),
            ("7", json!({"$ref": "#/$defs/Size"}), json!(7)),
            ("7", json!({"allOf": [{"$ref": "#/$defs/Size"}], "description": "x"}), json!(7)),
            ("7", json!({"$ref": "#/$defs/Loop"}), json!("7")),
            ("7", json!({"description": "anything"}), json!("7")),
            ("[7]", json!({"description": "anything"}), json!([7])),
            ("7", json!(true), json!("7")),
        ] {
            assert_eq!(converted(text, &schema, true, Untyped::Text), value, "{text} as {schema}");
        }
    }

    #[test]
    fn null_leaves_an_optional_parameter_out() {
        assert_eq!(converted("null", &json!({"type": "string"}), false, Untyped::Text), json!(null));
        assert_eq!(converted("none", &json!({"type": "string"}), false, Untyped::Text), json!("none"));
    }

    #[test]
    fn what_has_no_schema_is_text_or_guessed() {
        for (text, guess) in
            [("7", json!(7)), ("{'a': 1}", json!({"a": 1})), ("x y", json!("x y")), ("null", json!(null))]
        {
            let read = |untyped| serde_json::from_str::<Value>(&convert(text, None, untyped)).unwrap();
            assert_eq!(read(Untyped::Guess), guess);
            assert_eq!(read(Untyped::Text), if text == "null" { json!(null) } else { json!(text) });
        }
    }

    #[test]
    fn large_integers_keep_their_digits() {
        let tools = tools(&json!({"properties": {"p": {"type": "integer"}}}));
        let digits = "123456789012345678901234567890";
        assert_eq!(convert(digits, tools.parameter("f", "p"), Untyped::Text), digits);
    }

    #[test]
    fn odd_tools_are_passed_over() {
        let tools =
            Tools::new(&[json!(null), json!({"name": 1}), json!({"name": "g", "input_schema": []}), json!("f")]);
        assert!(tools.has("g") && tools.names().eq(["g"]) && !tools.is_empty());
        assert_eq!(tools.parameter("g", "p"), None);
    }
}
