//! Formats with a head of special tokens, and Gemma's.

use mlxlm_serve::tools::Format;
use serde_json::json;

use super::check;
use crate::Setting;

#[test]
fn kimi_k2() {
    let setting = Setting::of(Format::KimiK2).thinking();
    let call = |id: &str, arguments: &str| {
        format!("<|tool_call_begin|>{id}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>")
    };
    let section = |calls: &str| format!("<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>");
    let two = section(&(call("functions.f:0", "{\"a\": 1}") + &call(" functions.g.h:1 ", "{}")));
    let reply = setting.reply(&format!("<think>Hm</think>Ok{two}"));
    let got: Vec<_> = reply.calls.iter().map(|c| (c.id.as_str(), c.name.as_str(), c.arguments.as_str())).collect();
    assert_eq!(got, [("functions.f:0", "f", "{\"a\": 1}"), ("functions.g.h:1", "g.h", "{}")]);
    assert_eq!((reply.reasoning.as_str(), reply.text.as_str()), ("Hm", "Ok"));
    // A name without the usual form has no id to keep.
    let reply = setting.reply(&section(&call("f", "{}")));
    assert_eq!((reply.calls[0].id.as_str(), reply.calls[0].name.as_str()), ("call_0000000000000000", "f"));
    // Within the reasoning, without the section, and without the ends.
    let loose = "<think>Hm<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}\
                 <|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{\"s\": \"<p>\"}";
    check(&setting, loose, &[("f", json!({"a": 1})), ("g", json!({"s": "<p>"}))], "");
    check(&setting, &(call("functions.f:0", "{}") + "Done"), &[("f", json!({}))], "Done");
    let python = section(&call("functions.f:0", "{'a': True}"));
    check(&setting, &python, &[("f", json!({"a": true}))], "");
}

#[test]
fn deepseek() {
    let begin = "<｜tool▁calls▁begin｜>";
    for format in [Format::DeepseekV3, Format::DeepseekV31] {
        let setting = Setting::of(format).thinking().in_reasoning();
        let old = |name: &str, body: &str| {
            format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{body}\n```<｜tool▁call▁end｜>")
        };
        let new =
            |name: &str, body: &str| format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{body}<｜tool▁call▁end｜>");
        let two = [("f", json!({"a": "```"})), ("g", json!({}))];
        for calls in
            [old("f", "{\"a\": \"```\"}") + "\n" + &old("g", "{}"), new("f", "{\"a\": \"```\"}") + &new("g", "{}")]
        {
            check(&setting, &format!("Hm</think>\n\n{begin}{calls}<｜tool▁calls▁end｜>"), &two, "");
            check(&setting, &format!("</think>So{begin}{calls}"), &two, "So");
        }
        // A tool by the name of the kind.
        check(
            &setting,
            &format!("</think>{begin}{}<｜tool▁calls▁end｜>", new("function", "{}")),
            &[("function", json!({}))],
            "",
        );
        let text = "</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁call▁end｜><｜tool▁calls▁end｜>x";
        let reply = setting.reply(text);
        assert_eq!((reply.text.as_str(), reply.invalid[0].reason.as_str()), ("x", "a call without `<｜tool▁sep｜>`"));
    }
}

#[test]
fn gemma4() {
    let setting = Setting::of(Format::Gemma4).marks("<|channel>thought", "<channel|>");
    for (braces, arguments) in [
        ("{city:<|\"|>San Francisco<|\"|>}", json!({"city": "San Francisco"})),
        ("{}", json!({})),
        (
            "{a:42,b:-7,c:3.25,d:1.5e10,e:true,f:null}",
            json!({"a": 42, "b": -7, "c": 3.25, "d": 1.5e10, "e": true, "f": null}),
        ),
        (
            "{list:[<|\"|>a, b<|\"|>,<|\"|>c<|\"|>],o:{theme:<|\"|>dark<|\"|>,n:{}}}",
            json!({"list": ["a, b", "c"], "o": {"theme": "dark", "n": {}}}),
        ),
        ("{s:<|\"|>}{ \"x\" \\n\n<|\"|>}", json!({"s": "}{ \"x\" \\n\n"})),
        ("{<|\"|>quoted key<|\"|>:1, \"other\": \"y\"}", json!({"quoted key": 1, "other": "y"})),
    ] {
        check(&setting, &format!("A<|tool_call>call:get_time{braces}<tool_call|>"), &[("get_time", arguments)], "A");
    }
    let two = "<|tool_call>call:a-b{}<tool_call|><|tool_call>call:c{}call:d{}<tool_call|>";
    check(&setting, two, &[("a-b", json!({})), ("c", json!({})), ("d", json!({}))], "");
}

#[test]
fn function_gemma() {
    let setting = Setting::of(Format::FunctionGemma);
    for (braces, arguments) in [
        ("{location:<escape>London<escape>,days:2}", json!({"location": "London", "days": 2})),
        ("{city:New York,ok:true}", json!({"city": "New York", "ok": true})),
        ("{s:<escape>{a:1, b}<escape>}", json!({"s": "{a:1, b}"})),
        ("{}", json!({})),
    ] {
        check(&setting, &format!("<start_function_call>call:f{braces}<end_function_call>"), &[("f", arguments)], "");
    }
}
