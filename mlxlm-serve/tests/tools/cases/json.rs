//! Formats with calls in JSON, and those that write Python.

use mlxlm_serve::tools::Format;
use serde_json::json;

use super::check;
use crate::Setting;

#[test]
fn json() {
    let setting = Setting::of(Format::Json);
    let oslo = [("weather", json!({"city": "Oslo"}))];
    for (text, answer) in [
        ("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>", ""),
        ("Wait.<tool_call>{\"name\":\"weather\",\"arguments\":{\"city\":\"Oslo\"}}</tool_call>", "Wait."),
        // The other names of the fields, in the other order.
        ("<tool_call>{\"parameters\": {\"city\": \"Oslo\"}, \"name\": \"weather\"}</tool_call>", ""),
        (
            "<tool_call>{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}}</tool_call>",
            "",
        ),
        ("<tool_call>{\"function\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}</tool_call>", ""),
        // Arguments as a string.
        (r#"<tool_call>{"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}</tool_call>"#, ""),
        // Python's notation.
        ("<tool_call>{'name': 'weather', 'arguments': {'city': 'Oslo'}}</tool_call>", ""),
        // One brace too many, one too few, no closing marker.
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}}\n</tool_call>", ""),
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}</tool_call>", ""),
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}", ""),
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}Then.</tool_call>", "Then."),
        // A list of one.
        ("<tool_call>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}]</tool_call>", ""),
        // Trailing commas.
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\",},}</tool_call>", ""),
    ] {
        check(&setting, text, &oslo, answer);
    }
    for arguments in ["{}", "null", "\"\"", "\"{}\""] {
        let text = format!("<tool_call>{{\"name\": \"now\", \"arguments\": {arguments}}}</tool_call>");
        check(&setting, &text, &[("now", json!({}))], "");
    }
    check(&setting, "<tool_call>{\"name\": \"now\"}</tool_call>", &[("now", json!({}))], "");
    check(
        &setting,
        "<tool_call>{\"name\": \"a\", \"arguments\": {}}\n{\"name\": \"b\", \"arguments\": {}}</tool_call>",
        &[("a", json!({})), ("b", json!({}))],
        "",
    );
}

#[test]
fn strings_in_json() {
    let setting = Setting::of(Format::Json);
    for (written, value) in [
        ("a </tool_call> b <tool_call>", "a </tool_call> b <tool_call>"),
        (r"line\nbreak \u00e9 \ud83d\ude00 \/", "line\nbreak é 😀 /"),
        ("raw\nbreak\tand tab", "raw\nbreak\tand tab"),
        (r"\d+\.\w \'", r"\d+\.\w '"),
        (r#"\"quoted\" \\"#, r#""quoted" \"#),
        ("it's", "it's"),
    ] {
        let text = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"s\": \"{written}\"}}}}</tool_call>");
        check(&setting, &text, &[("f", json!({"s": value}))], "");
    }
}

#[test]
fn the_text_of_arguments_is_that_of_json_dumps() {
    let setting = Setting::of(Format::Json);
    let text =
        "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":[1,2.50,{}],\n\n \"b\" :\"\\u00e9\\u0001\"}}</tool_call>";
    assert_eq!(setting.reply(text).calls[0].arguments, "{\"a\": [1, 2.50, {}], \"b\": \"é\\u0001\"}");
    // White space without end adds nothing.
    let text = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": 1,{}", " \n".repeat(100));
    assert_eq!(setting.reply(&text).calls[0].arguments, "{\"a\": 1");
}

#[test]
fn mistral() {
    let setting = Setting::of(Format::Mistral);
    let one = [("f", json!({"a": 1}))];
    let two = [("f", json!({"a": 1})), ("g-2", json!({}))];
    check(&setting, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}]", &one, "");
    check(&setting, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}] Done", &one, "Done");
    check(
        &setting,
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g-2\", \"arguments\": {}}]",
        &two,
        "",
    );
    check(&setting, "A [TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g-2[ARGS]{}", &two, "A");
    check(&setting, "[TOOL_CALLS]f[ARGS]{\"a\": 1}g-2[ARGS]{}", &two, "");
    check(&setting, "[TOOL_CALLS]f[ARGS]{\"a\": 1}\ng-2 [ARGS] {} Done now", &two, "Done now");
    check(&setting, "[TOOL_CALLS]f[CALL_ID]000000001[ARGS]{\"a\": 1}", &one, "");
    check(&setting, "[TOOL_CALLS]f[ARGS]{\"a\": 1} see [1] and [ARG]", &one, "see [1] and [ARG]");
    let thinking = setting.marks("[THINK]", "[/THINK]");
    let reply = thinking.reply("[THINK]hm[/THINK]Now[TOOL_CALLS]f[ARGS]{\"a\": 1}");
    assert_eq!((reply.reasoning.as_str(), reply.text.as_str(), reply.calls.len()), ("hm", "Now", 1));
}

#[test]
fn llama3() {
    let setting = Setting::of(Format::Llama3Json).tools(&json!([{"name": "f"}, {"name": "search"}]));
    check(&setting, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", &[("f", json!({"a": 1}))], "");
    check(&setting, "\n{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}", &[("f", json!({}))], "");
    let two = [("f", json!({})), ("search", json!({"q": "x"}))];
    check(
        &setting,
        "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"search\", \"parameters\": {\"q\": \"x\"}}",
        &two,
        "",
    );
    check(&setting, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", &[("f", json!({}))], "");
    check(&setting, "<|python_tag|>search.call(q=\"x\")", &[("search", json!({"q": "x"}))], "");
    check(&setting, "Go: <|python_tag|>search.call(q=\"x\")", &[("search", json!({"q": "x"}))], "Go:");
    for text in [
        "{\"name\": \"Ada\", \"born\": 1815}",
        "{\"name\": \"f\"}",
        "{\"name\": \"f\", \"age\": 3, \"parameters\": {}}",
        "{\"a\": {\"name\": \"f\", \"parameters\": {}}}",
        "{ not json }",
        "{",
        "{\"name\": \"f\", ",
        "{\"name\": [1], \"parameters\": {}}",
        "Use {\"name\": \"f\", \"parameters\": {}}",
        "[f(a=1)]",
    ] {
        check(&setting, text, &[], text);
    }
    let reply = setting.reply("{\"name\": \"f\", \"parameters\": {}} {\"x\": 1} and more");
    assert_eq!((reply.calls.len(), reply.text.as_str()), (1, "{\"x\": 1} and more"));
    // Without tools an object is an answer.
    check(
        &Setting::of(Format::Llama3Json),
        "{\"name\": \"f\", \"parameters\": {}}",
        &[],
        "{\"name\": \"f\", \"parameters\": {}}",
    );
}

#[test]
fn llama4() {
    let setting = Setting::of(Format::Llama4Pythonic).tools(&json!([{"name": "f"}, {"name": "g"}]));
    let two = [("f", json!({"a": "x"})), ("g", json!({}))];
    check(&setting, "[f(a='x'), g()]", &two, "");
    check(&setting, "<|python_start|>[f(a=\"x\"), g()]<|python_end|>", &two, "");
    check(&setting, "[f(a='x'), g()] So.", &two, "So.");
    for text in ["[link](url) and more", "[1, 2]", "[f] is a list", "[h(a=1)]", "[", "[f"] {
        check(&setting, text, &[], text);
    }
}

#[test]
fn pythonic() {
    let setting = Setting::of(Format::Pythonic);
    for (written, calls) in [
        ("[f(a=1)]", vec![("f", json!({"a": 1}))]),
        ("[ f ( a = 1 , ) , ]", vec![("f", json!({"a": 1}))]),
        ("f(a=1)", vec![("f", json!({"a": 1}))]),
        (
            "[Calendar.add(title=\"x\", people=[\"A\", 'B'], meta={\"p\": \"high\", \"r\": true, 'n': None})]",
            vec![(
                "Calendar.add",
                json!({"title": "x", "people": ["A", "B"], "meta": {"p": "high", "r": true, "n": null}}),
            )],
        ),
        ("[f(code=\"def g():\\n    print('hi')\")]", vec![("f", json!({"code": "def g():\n    print('hi')"}))]),
        ("[f(code=\"print(\\\"hi\\\")\")]", vec![("f", json!({"code": "print(\"hi\")"}))]),
        ("[f(code='''a\n'b' \"c\"''')]", vec![("f", json!({"code": "a\n'b' \"c\""}))]),
        // Quotes that nobody escaped, and a word without any.
        ("[f(s='it's fine', city=New York)]", vec![("f", json!({"s": "it's fine", "city": "New York"}))]),
        ("[f(t=(1, 2), u=-1.5, v=1_000)]", vec![("f", json!({"t": [1, 2], "u": -1.5, "v": 1000}))]),
        ("[f(), g(x='a, b)]')]", vec![("f", json!({})), ("g", json!({"x": "a, b)]"}))]),
        ("{\"name\": \"f\", \"arguments\": {}}", vec![("f", json!({}))]),
    ] {
        check(&setting, &format!("Ok <|tool_call_start|>{written}<|tool_call_end|> then"), &calls, "Ok then");
    }
    check(&setting, "See [link](url) and [f(a=1)].", &[], "See [link](url) and [f(a=1)].");
    let reply = setting.reply("<|tool_call_start|>[f(1)]<|tool_call_end|>");
    assert_eq!(reply.invalid[0].reason, "expected an argument with a name, found `1)`");
}
