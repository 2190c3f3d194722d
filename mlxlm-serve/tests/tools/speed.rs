//! Reading takes time in proportion to the text: half a megabyte of arguments, one character at a time.

use std::time::{Duration, Instant};

use mlxlm_serve::tools::{Format, Reply, Stream};
use serde_json::{Map, Value, json};

use super::Setting;
use super::render::{Answer, render};

const BYTES: usize = 1 << 19;

fn timed(setting: &Setting, text: &str) -> (Reply, Duration) {
    let mut stream = Stream::new(setting.options.clone());
    let begin = Instant::now();
    let mut reply = Reply::default();
    for (at, c) in text.char_indices() {
        reply.extend(stream.push(&text[at..at + c.len_utf8()]));
    }
    reply.extend(stream.finish(setting.finish));
    (reply, begin.elapsed())
}

/// Linear time is a fraction of a second; what grows with the square takes hours.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn long_arguments() {
    let tools = json!([{"name": "f", "parameters": {"properties": {"content": {"type": "string"}, "rows": {"type": "array"}}}}]);
    for format in Format::ALL {
        let setting = Setting::of(format).thinking().tools(&tools);
        for (key, value) in [
            ("content", Value::from("<a href=\"x\">\n\n\n</a> ".repeat(BYTES / 20))),
            ("rows", Value::from(vec![1; BYTES / 2])),
        ] {
            let arguments = Map::from_iter([(key.to_owned(), value)]);
            let calls = vec![("f".to_owned(), arguments.clone())];
            let answer = Answer { reasoning: None, before: String::new(), calls, after: String::new() };
            let (reply, elapsed) = timed(&setting, &render(format, &answer));
            assert_eq!(serde_json::from_str::<Value>(&reply.calls[0].arguments).unwrap(), Value::Object(arguments));
            println!("{}: {key} in {elapsed:.2?}", format.name());
            assert!(elapsed < LIMIT, "{} took {elapsed:?}", format.name());
        }
    }
}

#[test]
fn what_might_be_read_twice() {
    let value = "<tool_call>\n<function=f>\n<parameter=a>\n";
    for (format, start, unit) in [
        (Format::Json, "", "<"),
        (Format::Json, "", " "),
        (Format::Json, "", "<tool_cal"),
        (Format::Json, "", "<think>"),
        (Format::Json, "<tool_call>", "["),
        (Format::Json, "<tool_call>", " "),
        (Format::Json, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", "\\"),
        (Format::Json, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ", "1"),
        (Format::Json, "<tool_call>{\"arguments\": {\"a\": \"", "x"),
        (Format::Qwen3Coder, value, "</parameter>"),
        (Format::Qwen3Coder, value, "</parameter>\n x"),
        (Format::Qwen3Coder, value, "\n"),
        (Format::Qwen3Coder, "<tool_call>\n<function=f>\n<parameter=a>1</parameter>", " "),
        (Format::Qwen3Coder, "", "<function=f>"),
        (Format::Glm47, "<tool_call>f ", "a=1 "),
        (Format::Mistral, "[TOOL_CALLS]f[ARGS]{}", "f "),
        (Format::Mistral, "[TOOL_CALLS]f[ARGS]{}", "f"),
        (Format::Mistral, "", "[TOOL_CALLS]f[ARGS]{}"),
        (Format::Pythonic, "<|tool_call_start|>[f(a='", "' "),
        (Format::Llama3Json, "", "{"),
        (Format::Llama3Json, "", "{\"name\": \"f\", \"parameters\": {}} "),
        (Format::Llama3Json, "{\"name\": \"f\", \"id\": \"", "x"),
        (Format::Gemma4, "<|tool_call>call:f{a:<|\"|>", "<|\""),
        (Format::Harmony, "", "<|channel|>"),
        (Format::Harmony, "to=", "x"),
        (Format::MuseSpark, "", "<|eom|>"),
    ] {
        let setting = Setting::of(format).thinking().tools(&json!([{"name": "f"}]));
        let text = format!("{start}{}", unit.repeat(BYTES / unit.len()));
        let (_, elapsed) = timed(&setting, &text);
        assert!(elapsed < LIMIT, "{} took {elapsed:?} for {start}{unit}…", format.name());
    }
}
