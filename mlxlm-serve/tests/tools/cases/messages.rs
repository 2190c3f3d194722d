//! Answers made of messages with headers.

use mlxlm_serve::tools::Format;
use serde_json::json;

use super::check;
use crate::Setting;

/// Reasoning and text of an answer without calls.
#[track_caller]
fn prose(setting: &Setting, text: &str, reasoning: &str, answer: &str) {
    let reply = setting.reply(text);
    assert_eq!((reply.reasoning.as_str(), reply.text.as_str()), (reasoning, answer), "{text}");
    assert_eq!((reply.calls.len(), &reply.invalid[..]), (0, &[][..]), "{text}");
}

#[test]
fn harmony_channels() {
    let setting = Setting::of(Format::Harmony);
    prose(&setting, "<|channel|>final<|message|>Hello\nyou", "", "Hello\nyou");
    prose(&setting, "<|channel|>commentary<|message|>Hello<|end|>", "", "Hello");
    prose(&setting, "<|channel|>analysis<|message|>Hm", "Hm", "");
    prose(
        &setting,
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>",
        "Hm",
        "Hello",
    );
    prose(
        &setting,
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{\"a\": 1}",
        "Hm",
        "{\"a\": 1}",
    );
    // A header twice, and messages without their end.
    prose(
        &setting,
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "Hm",
        "Hello",
    );
    prose(
        &setting,
        "<|channel|>analysis<|message|>Hm<|start|>assistant<|channel|>final<|message|>Hello",
        "Hm",
        "Hello",
    );
    prose(&setting, "<|channel|>analysis<|message|>Hm<|channel|>final<|message|>Hello", "Hm", "Hello");
    // No header at all.
    prose(&setting, "Hello there", "", "Hello there");
    prose(&setting, "Hello<|end|><|start|>assistant<|channel|>final<|message|> there", "", "Hello\n\nthere");
    prose(&setting, "to=none of this is a header", "", "to=none of this is a header");
    prose(&setting, " to=nobody<|end|>", "", " to=nobody");
    prose(&setting, "<|channel|>analysis", "", "");
    prose(
        &setting.clone().in_reasoning(),
        "on with it<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "on with it",
        "Hello",
    );
}

#[test]
fn harmony_calls() {
    let setting = Setting::of(Format::Harmony);
    let f = [("f", json!({"a": 1}))];
    for header in [
        " to=functions.f<|channel|>analysis<|message|>",
        "<|channel|>analysis to=functions.f<|message|>",
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.f<|message|>",
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>",
    ] {
        check(&setting, &format!("{header}{{\"a\": 1}}"), &f, "");
        check(&setting, &format!("{header} {{\"a\":1}}<|call|>"), &f, "");
    }
    let two = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>{\"a\": 1}<|call|>\
               <|start|>assistant<|channel|>commentary to=functions.g<|message|>{}<|call|>";
    check(&setting, two, &[("f", json!({"a": 1})), ("g", json!({}))], "Let me look.");
    let own = setting.clone().tools(&json!([{"name": "browser.search"}]));
    check(
        &own,
        "<|channel|>analysis to=browser.search<|message|>{\"query\": \"x\"}<|call|>",
        &[("browser.search", json!({"query": "x"}))],
        "",
    );
}

#[test]
fn what_goes_to_nobody_is_not_lost() {
    let setting = Setting::of(Format::Harmony);
    let reply = setting.reply("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>");
    assert_eq!((reply.reasoning.as_str(), reply.text.as_str(), reply.calls.len()), ("Hm", "", 0));
    assert_eq!(
        (reply.invalid[0].text.as_str(), reply.invalid[0].reason.as_str()),
        ("print(1)", "`python` is no tool of this request")
    );
    let reply = setting.reply("<|channel|>commentary to=functions.f<|message|>city Oslo<|call|><|start|>assistant<|channel|>final<|message|>x");
    assert_eq!((reply.text.as_str(), reply.calls.len(), reply.invalid[0].text.as_str()), ("x", 0, "city Oslo"));
    let reply = setting.reply("<|channel|>commentary to=functions.f<|message|>{\"a\": oops}<|call|>");
    assert_eq!((reply.calls[0].is_whole, reply.invalid[0].reason.as_str()), (false, "`oops` is no value"));
}

#[test]
fn muse_spark() {
    let setting = Setting::of(Format::MuseSpark);
    let call = "<atem:function_calls>\n<atem:invoke name=\"f\">\n<atem:parameter name=\"a\">1</atem:parameter>\n<atem:parameter name=\"s\"> x </atem:parameter>\n</atem:invoke>\n</atem:function_calls>";
    let f = [("f", json!({"a": 1, "s": " x "}))];
    prose(&setting, " to=user<|message|>Hello<|eot|>", "", "Hello");
    prose(&setting, " to=self<|message|>Hm<|eom|><|start|>assistant to=user<|message|>Hello<|eot|>", "Hm", "Hello");
    prose(&setting, "<|message|>Hello", "", "Hello");
    prose(&setting, "Hello", "", "Hello");
    check(&setting, &format!(" to=f<|message|>{call}<|eot|>"), &f, "");
    check(&setting, &format!(" to=f<|message|>{call}"), &f, "");
    check(&setting, call, &f, "");
    check(
        &setting,
        &format!(
            " to=user<|message|>Wait.<|eom|><|start|>assistant to=f<|message|>{call}<|eom|><|start|>assistant to=g<|message|>{call}<|eot|>"
        ),
        &[f[0].clone(), f[0].clone()],
        "Wait.",
    );
    // Markup that is shown to somebody is no call.
    prose(&setting, &format!(" to=user<|message|>Like this: {call}<|eot|>"), "", &format!("Like this: {call}"));
    prose(&setting, &format!(" to=self<|message|>Maybe {call}<|eom|>"), &format!("Maybe {call}"), "");
}

#[test]
fn many_tools_with_long_descriptions() {
    let tools: Vec<_> = (0..50)
        .map(|i| {
            let description = format!("<tool_call> <function=tool{i}> {{\"name\": ").repeat(200);
            let properties = json!({"text": {"type": "string", "maxLength": 20000, "description": description}, "n": {"type": "integer"}});
            json!({"type": "function", "function": {"name": format!("tool{i}"), "description": description,
                "parameters": {"type": "object", "properties": properties, "required": ["text"]}}})
        })
        .collect();
    let text = "x<y\n".repeat(4000);
    for format in [Format::Qwen3Coder, Format::Json, Format::Llama3Json] {
        let setting = Setting::of(format).tools(&json!(tools));
        let call = match format {
            Format::Qwen3Coder => format!(
                "<tool_call>\n<function=tool49>\n<parameter=text>\n{text}\n</parameter>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"
            ),
            Format::Json => format!(
                "<tool_call>{{\"name\": \"tool49\", \"arguments\": {}}}</tool_call>",
                json!({"text": text, "n": 1})
            ),
            _ => format!("{{\"name\": \"tool49\", \"parameters\": {}}}", json!({"text": text, "n": 1})),
        };
        let reply = setting.read([call.as_str()]);
        assert_eq!((reply.calls.len(), reply.calls[0].name.as_str(), reply.calls[0].is_whole), (1, "tool49", true));
        let arguments: serde_json::Value = serde_json::from_str(&reply.calls[0].arguments).unwrap();
        assert_eq!(arguments, json!({"text": text, "n": 1}), "arguments are the text of an object");
    }
}
