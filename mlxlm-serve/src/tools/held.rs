//! Calls as grammars see them: what may come after the marker that begins a call, in the notation of each format.
//!
//! The notations are those that templates write, white space included: it is what models were trained on. Formats that are not here
//! have values in a notation of their own (Python, braces); their models are not held to anything.

use mlxlm_sample::grammar::Part;
use serde_json::{Map, Value, json};

use super::Format;

/// Calls of tools as parts of a grammar.
pub(crate) struct Held<'a> {
    format: Format,
    tools: &'a [Value],
    /// A text of the template as parts: tokens with a meaning of their own, and text.
    markup: &'a dyn Fn(&str) -> Vec<Part>,
    /// Whether arguments are only held to be objects.
    is_loose: bool,
}

impl<'a> Held<'a> {
    /// Calls of these tools, in OpenAI's form; nothing for a format that grammars do not know.
    pub(crate) fn new(format: Format, tools: &'a [Value], markup: &'a dyn Fn(&str) -> Vec<Part>) -> Option<Self> {
        let is_known = matches!(
            format,
            Format::Json
                | Format::Mistral
                | Format::Llama3Json
                | Format::Qwen3Coder
                | Format::SeedOss
                | Format::Glm47
                | Format::Laguna
                | Format::Longcat
                | Format::MinimaxM2
                | Format::DeepseekV31
                | Format::DeepseekV3
                | Format::KimiK2
                | Format::Harmony
        );
        is_known.then_some(Self { format, tools, markup, is_loose: false })
    }

    /// The same with arguments that are any objects.
    pub(crate) fn loose(self) -> Self {
        Self { is_loose: true, ..self }
    }

    /// The marker that begins the first call, where one does.
    pub(crate) fn start(&self) -> Option<&'static str> {
        self.format.starts().first().copied()
    }

    /// One call, or several, from behind the marker that begins the first to the end of the last.
    pub(crate) fn calls(&self, parallel: bool) -> Vec<Part> {
        let mut calls = vec![self.any_tool()];
        let [between, end] = self.marks();
        if parallel && !matches!(self.format, Format::Harmony | Format::Llama3Json) {
            calls.push(Part::Times { parts: [between, vec![self.any_tool()]].concat(), least: 0, most: None });
        }
        calls.extend(end);
        if self.format == Format::Mistral && !self.names_first() {
            calls.insert(0, text("["));
        }
        calls
    }

    /// What stands between two calls, and after the last.
    fn marks(&self) -> [Vec<Part>; 2] {
        let mark = |text: &str| (self.markup)(text);
        // Where each call has markers of its own, those stand between.
        let framed = |start: &str, end: &str| {
            let between = [mark(end), vec![text("\n")], mark(start)].concat();
            [between, mark(end)]
        };
        match self.format {
            Format::Json | Format::Qwen3Coder | Format::Glm47 | Format::Laguna => framed("<tool_call>", "</tool_call>"),
            Format::SeedOss => framed("<seed:tool_call>", "</seed:tool_call>"),
            Format::Longcat => framed("<longcat_tool_call>", "</longcat_tool_call>"),
            Format::Mistral if self.names_first() => [mark("[TOOL_CALLS]"), Vec::new()],
            Format::Mistral => [vec![text(", ")], vec![text("]")]],
            Format::MinimaxM2 => [Vec::new(), mark("</minimax:tool_call>")],
            Format::DeepseekV31 | Format::DeepseekV3 => [Vec::new(), mark("<｜tool▁calls▁end｜>")],
            Format::KimiK2 => [Vec::new(), mark("<|tool_calls_section_end|>")],
            _ => [Vec::new(), Vec::new()],
        }
    }

    /// Whether a Mistral writes the name before the arguments, as those since November 2025 do.
    fn names_first(&self) -> bool {
        matches!((self.markup)("[ARGS]")[..], [Part::Token(_)])
    }

    /// A call of any of the tools.
    fn any_tool(&self) -> Part {
        Part::Either(self.tools.iter().map(|tool| self.call(tool)).collect())
    }

    fn call(&self, tool: &Value) -> Vec<Part> {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        let schema = self.schema(function);
        let mark = |text: &str| (self.markup)(text);
        let json = || vec![Part::Json(schema.clone())];
        let named = |before: &str, arguments: &str, after: &str| {
            let head = format!("{before}{{\"name\": {}, \"{arguments}\": ", json!(name));
            vec![Part::Text(head), Part::Json(schema.clone()), Part::Text(format!("}}{after}"))]
        };
        match self.format {
            Format::Mistral if self.names_first() => [vec![text(name)], mark("[ARGS]"), json()].concat(),
            Format::Mistral => named("", "arguments", ""),
            Format::Llama3Json => named("", "parameters", ""),
            Format::Qwen3Coder | Format::SeedOss => self.tagged(
                &format!("\n<function={name}>\n"),
                &schema,
                |key| [format!("<parameter={key}>\n"), "\n</parameter>\n".to_owned()],
                "</function>\n",
            ),
            Format::MinimaxM2 => self.tagged(
                &format!("\n<invoke name=\"{name}\">\n"),
                &schema,
                |key| [format!("<parameter name=\"{key}\">"), "</parameter>\n".to_owned()],
                "</invoke>\n",
            ),
            Format::Glm47 | Format::Laguna => self.tagged(
                &format!("{name}\n"),
                &schema,
                |key| [format!("<arg_key>{key}</arg_key>\n<arg_value>"), "</arg_value>\n".to_owned()],
                "",
            ),
            Format::Longcat => self.tagged(
                &format!("{name}\n"),
                &schema,
                |key| {
                    let before = format!("<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>");
                    [before, "</longcat_arg_value>\n".to_owned()]
                },
                "",
            ),
            Format::DeepseekV31 => {
                let head = [mark("<｜tool▁call▁begin｜>"), vec![text(name)], mark("<｜tool▁sep｜>")].concat();
                [head, json(), mark("<｜tool▁call▁end｜>")].concat()
            }
            Format::DeepseekV3 => {
                let head = [mark("<｜tool▁call▁begin｜>"), vec![text("function")], mark("<｜tool▁sep｜>")].concat();
                let name = vec![Part::Text(format!("{name}\n```json\n"))];
                [head, name, json(), vec![text("\n```")], mark("<｜tool▁call▁end｜>")].concat()
            }
            Format::KimiK2 => {
                let name = vec![Part::Text(format!("functions.{name}:")), Part::Regex("[0-9]{1,3}".into())];
                let head = [mark("<|tool_call_begin|>"), name, mark("<|tool_call_argument_begin|>")].concat();
                [head, json(), mark("<|tool_call_end|>")].concat()
            }
            Format::Harmony => {
                let head = [vec![text(name)], mark("<|channel|>"), vec![text("commentary json")]].concat();
                [head, mark("<|message|>"), json()].concat()
            }
            _ => named("\n", "arguments", "\n"),
        }
    }

    /// The schema of a tool's arguments, without what is said to the model only.
    fn schema(&self, function: &Value) -> Value {
        let schema = function.get("parameters").filter(|schema| schema.is_object() && !self.is_loose);
        let mut schema = schema.cloned().unwrap_or_else(|| json!({}));
        if let Value::Object(schema) = &mut schema
            && !["$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| schema.contains_key(*key))
        {
            schema.insert("type".into(), "object".into());
        }
        strip(&mut schema, 0);
        schema
    }

    /// A call with its parameters one after the other, in the order of the schema, between tags; values of strings as they are.
    fn tagged(&self, before: &str, schema: &Value, tags: impl Fn(&str) -> [String; 2], after: &str) -> Vec<Part> {
        let mark = |text: &str| (self.markup)(text);
        let mut parts = mark(before);
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let required = |key: &str| schema["required"].as_array().is_some_and(|keys| keys.iter().any(|own| own == key));
        for (key, property) in properties {
            let [open, close] = tags(key);
            let mut parameter = mark(&open);
            parameter.extend(self.value(property, schema, &close));
            match required(key) {
                true => parts.extend(parameter),
                false => parts.push(Part::Times { parts: parameter, least: 0, most: Some(1) }),
            }
        }
        if properties.is_empty() && self.is_loose {
            let name = Part::Regex("[A-Za-z_][A-Za-z0-9_]{0,63}".into());
            let [open, close] = tags("\u{1}");
            let (head, tail) = open.split_once('\u{1}').unwrap_or((&open, ""));
            let parameter = [mark(head), vec![name], mark(tail), self.free(&close)].concat();
            parts.push(Part::Times { parts: parameter, least: 0, most: None });
        }
        parts.extend(mark(after));
        parts
    }

    /// A value up to the tag that ends it.
    fn value(&self, property: &Value, root: &Value, close: &str) -> Vec<Part> {
        if let Some(choices) = property["enum"].as_array()
            && choices.iter().all(Value::is_string)
        {
            let texts = choices.iter().filter_map(Value::as_str).map(|choice| vec![text(choice)]).collect();
            return [vec![Part::Either(texts)], (self.markup)(close)].concat();
        }
        let is_json =
            matches!(property["type"].as_str(), Some("integer" | "number" | "boolean" | "object" | "array" | "null"));
        if !is_json {
            return self.free(close);
        }
        let mut schema = property.clone();
        for key in ["$defs", "definitions"] {
            if let (Some(definitions), Value::Object(schema)) = (root.get(key), &mut schema) {
                schema.insert(key.into(), definitions.clone());
            }
        }
        [vec![Part::Json(schema)], (self.markup)(close)].concat()
    }

    /// Any text up to the tag that ends it.
    fn free(&self, close: &str) -> Vec<Part> {
        let close = (self.markup)(close);
        match &close[..] {
            [Part::Text(text), rest @ ..] => [&[Part::Until(text.clone())], rest].concat(),
            _ => [vec![Part::Anything], close].concat(),
        }
    }
}

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

/// Takes off a schema what changes no value: descriptions are long.
fn strip(schema: &mut Value, depth: usize) {
    // What is deeper is refused by the grammar, which counts levels.
    if depth > 256 {
        return;
    }
    match schema {
        Value::Object(map) => {
            map.retain(|key, value| {
                let is_said = matches!(key.as_str(), "description" | "title" | "examples" | "default" | "$comment");
                // A property may have such a name too.
                !(is_said && (!value.is_object() || key == "default"))
            });
            map.values_mut().for_each(|value| strip(value, depth + 1));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| strip(value, depth + 1)),
        _ => {}
    }
}
