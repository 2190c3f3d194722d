//! Answers in every format, as the templates of the models write them.

use mlxlm_serve::tools::Format;
use serde_json::{Map, Value};

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) reasoning: Option<String>,
    pub(crate) before: String,
    pub(crate) calls: Vec<(String, Map<String, Value>)>,
    pub(crate) after: String,
}

/// The marks around the reasoning of the models that use a format; none where messages have headers.
pub(crate) fn marks(format: Format) -> Option<(&'static str, &'static str)> {
    match format {
        Format::Harmony | Format::MuseSpark => None,
        Format::Mistral => Some(("[THINK]", "[/THINK]")),
        Format::SeedOss => Some(("<seed:think>", "</seed:think>")),
        Format::Longcat => Some(("<longcat_think>", "</longcat_think>")),
        Format::Gemma4 => Some(("<|channel>thought", "<channel|>")),
        Format::KimiK3 => Some(("<|open|>think<|sep|>", "<|close|>think<|sep|>")),
        _ => Some(("<think>", "</think>")),
    }
}

/// The white space that a template puts before calls.
pub(crate) fn lead(format: Format) -> &'static str {
    use Format::{DeepseekV32, Glm47, Json, Laguna, Longcat, Minicpm5, MinimaxM2, Qwen3Coder, SeedOss};
    match format {
        Json | Qwen3Coder | SeedOss | MinimaxM2 | Glm47 | Laguna | Longcat | Minicpm5 => "\n",
        DeepseekV32 => "\n\n",
        _ => "",
    }
}

/// The text of an answer.
pub(crate) fn render(format: Format, answer: &Answer) -> String {
    match format {
        Format::Harmony => return harmony(answer),
        Format::MuseSpark => return muse(answer),
        _ => {}
    }
    let reasoning = match (&answer.reasoning, marks(format)) {
        (Some(reasoning), Some((start, end))) => format!("{start}\n{reasoning}\n{end}\n\n"),
        _ => String::new(),
    };
    let calls = if answer.calls.is_empty() { String::new() } else { calls(format, answer) };
    match format {
        Format::KimiK3 => format!(
            "{reasoning}<|open|>response<|sep|>{}<|close|>response<|sep|>{calls}{}<|close|>message<|sep|>",
            answer.before, answer.after
        ),
        _ => format!("{reasoning}{}{calls}{}", answer.before, answer.after),
    }
}

/// The calls with all their markup.
fn calls(format: Format, answer: &Answer) -> String {
    let calls = json_calls(format, answer).or_else(|| tagged_calls(format, answer));
    calls.or_else(|| headed_calls(format, answer)).expect("a format with calls between markers")
}

/// One rendering after the other.
fn list(answer: &Answer, separator: &str, one: impl Fn(&str, &Map<String, Value>) -> String) -> String {
    answer.calls.iter().map(|(name, arguments)| one(name, arguments)).collect::<Vec<_>>().join(separator)
}

/// Parameters one after the other.
fn parameters(arguments: &Map<String, Value>, one: impl Fn(&str, &Value) -> String) -> String {
    arguments.iter().map(|(key, value)| one(key, value)).collect()
}

/// Calls in JSON and in Python.
fn json_calls(format: Format, answer: &Answer) -> Option<String> {
    let is_first = answer.before.trim().is_empty();
    Some(match format {
        Format::Json => list(answer, "", |name, a| {
            format!("{}<tool_call>\n{}\n</tool_call>", lead(format), object(name, "arguments", a))
        }),
        Format::Mistral if answer.before.len() % 2 == 0 => {
            format!("[TOOL_CALLS][{}]", list(answer, ", ", |name, a| object(name, "arguments", a)))
        }
        Format::Mistral => list(answer, "", |name, a| format!("[TOOL_CALLS]{name}[ARGS]{}", json(a))),
        Format::Llama3Json => {
            let tag = if is_first { "" } else { "<|python_tag|>" };
            format!("{tag}{}", list(answer, "; ", |name, a| object(name, "parameters", a)))
        }
        Format::Llama4Pythonic if is_first => format!("[{}]", list(answer, ", ", python_call)),
        Format::Llama4Pythonic => format!("<|python_start|>[{}]<|python_end|>", list(answer, ", ", python_call)),
        Format::Pythonic => format!("<|tool_call_start|>[{}]<|tool_call_end|>", list(answer, ", ", python_call)),
        _ => return None,
    })
}

/// Calls like XML.
fn tagged_calls(format: Format, answer: &Answer) -> Option<String> {
    let lead = lead(format);
    Some(match format {
        Format::Qwen3Coder => list(answer, "", |name, a| {
            let parameters = parameters(a, |k, v| format!("<parameter={k}>\n{}\n</parameter>\n", text(v)));
            format!("{lead}<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
        }),
        Format::SeedOss => list(answer, "", |name, a| {
            // A value that begins with a line break could be framed by it, so such a value is written with frames.
            let parameters = parameters(a, |k, v| match text(v) {
                value if value.starts_with('\n') => format!("<parameter={k}>\n{value}\n</parameter>\n"),
                value => format!("<parameter={k}>{value}</parameter>\n"),
            });
            format!("{lead}<seed:tool_call>\n<function={name}>\n{parameters}</function>\n</seed:tool_call>")
        }),
        Format::Glm47 | Format::Laguna | Format::Longcat => {
            let tag = if format == Format::Longcat { "longcat_" } else { "" };
            list(answer, "", |name, a| {
                let pairs = parameters(a, |k, v| {
                    format!("<{tag}arg_key>{k}</{tag}arg_key>\n<{tag}arg_value>{}</{tag}arg_value>\n", text(v))
                });
                format!("{lead}<{tag}tool_call>{name}\n{pairs}</{tag}tool_call>")
            })
        }
        Format::MinimaxM2 => {
            let calls = list(answer, "", |name, a| {
                let parameters = parameters(a, |k, v| format!("<parameter name=\"{k}\">{}</parameter>\n", text(v)));
                format!("<invoke name=\"{name}\">\n{parameters}</invoke>\n")
            });
            format!("{lead}<minimax:tool_call>\n{calls}</minimax:tool_call>")
        }
        Format::Minicpm5 => list(answer, "", |name, a| {
            let parameters = parameters(a, |k, v| match text(v) {
                value if value.contains(['<', '&', '\n']) => format!("<param name=\"{k}\"><![CDATA[{value}]]></param>"),
                value => format!("<param name=\"{k}\">{value}</param>"),
            });
            format!("{lead}<function name=\"{name}\">{parameters}</function>")
        }),
        Format::DeepseekV32 => {
            let calls = list(answer, "", |name, a| {
                let parameters = parameters(a, |k, v| {
                    let is_string = v.is_string();
                    format!("<｜DSML｜parameter name=\"{k}\" string=\"{is_string}\">{}</｜DSML｜parameter>\n", text(v))
                });
                format!("<｜DSML｜invoke name=\"{name}\">\n{parameters}</｜DSML｜invoke>\n")
            });
            format!("{lead}<｜DSML｜function_calls>\n{calls}</｜DSML｜function_calls>")
        }
        Format::KimiK3 => {
            let calls = list(answer, "", |name, a| {
                let arguments = parameters(a, |k, v| {
                    let kind = kind(v);
                    format!("<|open|>argument key=\"{k}\" type=\"{kind}\"<|sep|>{}<|close|>argument<|sep|>", text(v))
                });
                format!("<|open|>call tool=\"{name}\" index=\"1\"<|sep|>{arguments}<|close|>call<|sep|>")
            });
            format!("<|open|>tools<|sep|>{calls}<|close|>tools<|sep|>")
        }
        _ => return None,
    })
}

/// Calls with heads of special tokens, and Gemma's.
fn headed_calls(format: Format, answer: &Answer) -> Option<String> {
    Some(match format {
        Format::DeepseekV31 => {
            let calls = list(answer, "", |name, a| {
                format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{}<｜tool▁call▁end｜>", json(a))
            });
            format!("<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>")
        }
        Format::DeepseekV3 => {
            let calls = list(answer, "\n", |name, a| {
                format!(
                    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{}\n```<｜tool▁call▁end｜>",
                    json(a)
                )
            });
            format!("<｜tool▁calls▁begin｜>{calls}<｜tool▁calls▁end｜>")
        }
        Format::KimiK2 => {
            let calls = list(answer, "", |name, a| {
                format!("<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{}<|tool_call_end|>", json(a))
            });
            format!("<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>")
        }
        Format::Gemma4 => {
            list(answer, "", |name, a| format!("<|tool_call>call:{name}{}<tool_call|>", braces(a, "<|\"|>")))
        }
        Format::FunctionGemma => list(answer, "", |name, a| {
            format!("<start_function_call>call:{name}{}<end_function_call>", braces(a, "<escape>"))
        }),
        _ => return None,
    })
}

/// The name of a value's type in a schema.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Messages with channels.
fn harmony(answer: &Answer) -> String {
    let mut messages = Vec::new();
    if let Some(reasoning) = &answer.reasoning {
        messages.push(format!("<|channel|>analysis<|message|>{reasoning}<|end|>"));
    }
    if !answer.before.is_empty() {
        messages.push(format!("<|channel|>commentary<|message|>{}<|end|>", answer.before));
    }
    for (i, (name, arguments)) in answer.calls.iter().enumerate() {
        let arguments = json(arguments);
        messages.push(match i % 2 {
            0 => format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>"),
            _ => format!(" to=functions.{name}<|channel|>commentary json<|message|>{arguments}<|call|>"),
        });
    }
    if !answer.after.is_empty() {
        messages.push(format!("<|channel|>final<|message|>{}<|return|>", answer.after));
    }
    messages.join("<|start|>assistant")
}

/// Messages with recipients.
fn muse(answer: &Answer) -> String {
    let mut messages = Vec::new();
    if let Some(reasoning) = &answer.reasoning {
        messages.push(format!(" to=self<|message|>{reasoning}<|eom|>"));
    }
    if !answer.before.is_empty() {
        messages.push(format!(" to=user<|message|>{}<|eom|>", answer.before));
    }
    for (name, arguments) in &answer.calls {
        let parameters =
            parameters(arguments, |k, v| format!("<atem:parameter name=\"{k}\">{}</atem:parameter>\n", text(v)));
        messages.push(format!(
            " to={name}<|message|><atem:function_calls>\n<atem:invoke name=\"{name}\">\n{parameters}</atem:invoke>\n\
             </atem:function_calls><|eom|>"
        ));
    }
    if !answer.after.is_empty() {
        messages.push(format!(" to=user<|message|>{}<|eot|>", answer.after));
    }
    messages.join("<|start|>assistant")
}

fn json(arguments: &Map<String, Value>) -> String {
    Value::Object(arguments.clone()).to_string()
}

fn object(name: &str, key: &str, arguments: &Map<String, Value>) -> String {
    format!("{{\"name\": {}, \"{key}\": {}}}", Value::from(name), json(arguments))
}

/// A string as it is, all else in JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn python_call(name: &str, arguments: &Map<String, Value>) -> String {
    let arguments: Vec<_> = arguments.iter().map(|(key, value)| format!("{key}={}", python(value))).collect();
    format!("{name}({})", arguments.join(", "))
}

/// A literal of Python.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(n) => n.to_string(),
        Value::String(text) => {
            let escaped =
                text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n").replace('\u{1}', "\\x01");
            format!("'{escaped}'")
        }
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field =
                |(key, value): (&String, &Value)| format!("{}: {}", python(&Value::from(key.as_str())), python(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}

/// An object with bare keys and strings between `quote`s.
fn braces(fields: &Map<String, Value>, quote: &str) -> String {
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!("{key}:{}", marked(value, quote))).collect();
    format!("{{{}}}", fields.join(","))
}

fn marked(value: &Value, quote: &str) -> String {
    match value {
        Value::String(text) => format!("{quote}{text}{quote}"),
        Value::Array(items) => format!("[{}]", items.iter().map(|v| marked(v, quote)).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => braces(fields, quote),
        other => other.to_string(),
    }
}
