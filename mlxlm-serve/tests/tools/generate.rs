//! Answers, and texts that make no sense, by chance.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::render::{Answer, kind};

/// Markup of all formats, for texts that make no sense.
pub(crate) const MARKUP: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "{\"name\": \"f\", \"arguments\": {",
    "{\"a\": 1}",
    "}}",
    "\"a\": [1, ",
    "<function=f>",
    "<parameter=a>",
    "</parameter>",
    "</function>",
    "<function name=\"f\">",
    "<param name=\"a\">",
    "</param>",
    "<![CDATA[",
    "]]>",
    "<arg_key>a</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<longcat_tool_call>",
    "<minimax:tool_call>",
    "<invoke name=\"f\">",
    "</invoke>",
    "</minimax:tool_call>",
    "[TOOL_CALLS]",
    "f[ARGS]",
    "[CALL_ID]",
    "<|tool_call_start|>",
    "[f(a=",
    "<|tool_call_end|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "function",
    "<｜tool▁sep｜>",
    "```json\n",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<｜DSML｜function_calls>",
    "<｜DSML｜invoke name=\"f\">",
    "<｜DSML｜parameter name=\"a\" string=\"true\">",
    "</｜DSML｜parameter>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "functions.f:0",
    "<|tool_call_argument_begin|>",
    "<|open|>tools<|sep|>",
    "<|open|>call tool=\"f\"<|sep|>",
    "<|open|>argument key=\"a\" type=\"number\"<|sep|>",
    "<|close|>argument<|sep|>",
    "<|tool_call>",
    "call:f{a:",
    "<|\"|>",
    "<tool_call|>",
    "<escape>",
    "<start_function_call>",
    "<|channel|>",
    "analysis",
    "<|message|>",
    "<|end|>",
    "<|start|>assistant",
    " to=functions.f",
    " to=self",
    "<|eom|>",
    "<atem:function_calls>",
    "<atem:invoke name=\"f\">",
    "<atem:parameter name=\"a\">",
    "</atem:parameter>",
    "<think>",
    "</think>",
    "<|python_tag|>",
    "<|python_start|>",
];

/// Parts of strings: plain ones, and what looks like the syntax of some format.
pub(crate) const PARTS: &[&str] = &[
    "a",
    "Oslo",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "é",
    "😀",
    "北京",
    "\"",
    "'",
    "\\",
    "\\n",
    "\\u0041",
    "/",
    "</",
    "<",
    ">",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    "null",
    "true",
    "1",
    "-2.5",
    "<tool_call>",
    "</tool_call>x",
    "</parameter>x",
    "</arg_value>x",
    "</function>x",
    "]]>x",
    "<think>",
    "</think>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "call:",
    "<|",
    "｜",
    "&amp;",
    "&",
    "\u{1}",
    "```",
];

/// Parts of text outside of calls, which may look like the beginning of markup.
pub(crate) const WORDS: &[&str] = &[
    "So",
    "a",
    " ",
    "\n",
    ". ",
    "<",
    "<tool",
    "<tool_",
    "</",
    "<function",
    "<|",
    "<|tool",
    "<｜",
    "[",
    "]",
    "[TOOL",
    "{",
    "}",
    "(",
    "call",
    "name",
    "é",
    "😀",
    "<thin",
    "<min",
    "to",
    "`x`",
    "北京",
];

const KEYS: &[&str] =
    &["city", "a", "max_results", "x1", "name", "arguments", "parameters", "function", "id", "type", "ключ", "N"];

pub(crate) fn text(parts: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(select(parts), 0..most).prop_map(|parts| parts.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000_000i32..1_000_000).prop_map(|n| json!(f64::from(n) / 64.0)),
        Just(json!(1.5e300)),
        text(PARTS, 8).prop_map(Value::from),
        text(PARTS, 8).prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 12, 4, |inner| {
        let fields = prop::collection::vec((select(KEYS), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            fields.prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

fn arguments() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec((select(KEYS), value()), 0..4)
        .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

pub(crate) fn answer() -> impl Strategy<Value = Answer> {
    let names = select(&["get_weather", "f", "search-2", "now", "files.read"][..]);
    let calls = prop::collection::vec((names.prop_map(str::to_owned), arguments()), 0..4);
    (prop::option::of(text(WORDS, 6)), text(WORDS, 6), calls, text(WORDS, 6)).prop_map(
        |(reasoning, before, calls, after)| {
            // After calls a text begins with a word: brackets there could belong to them.
            let after = if after.is_empty() || calls.is_empty() { after } else { format!("So {after}") };
            Answer { reasoning, before, calls, after }
        },
    )
}

/// Tools whose schemas say what the arguments are.
pub(crate) fn tools(answer: &Answer) -> Value {
    let tool = |(name, arguments): &(String, Map<String, Value>)| {
        let properties: Map<_, _> = arguments.iter().map(|(k, v)| (k.clone(), json!({"type": kind(v)}))).collect();
        let required: Vec<_> = arguments.keys().collect();
        json!({"type": "function", "function": {"name": name, "parameters": {"properties": properties, "required": required}}})
    };
    answer.calls.iter().map(tool).collect()
}
