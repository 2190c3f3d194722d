//! Formats like XML.

use mlxlm_serve::tools::Format;
use serde_json::json;

use super::check;
use crate::Setting;

#[test]
fn qwen3_coder() {
    let tools = json!([
        {"name": "run", "parameters": {"properties": {
            "code": {"type": "string"}, "n": {"type": "integer"}, "on": {"type": "boolean"}, "todo": {"type": "array"},
            "note": {"type": ["string", "null"]}, "any": {}}, "required": ["code"]}},
        {"name": "now"}
    ]);
    let setting = Setting::of(Format::Qwen3Coder).tools(&tools);
    for (parameters, arguments) in [
        ("<parameter=code>\nprint(1)\n</parameter>\n", json!({"code": "print(1)"})),
        ("<parameter=code>\n    a\n\n</parameter>\n", json!({"code": "    a\n"})),
        ("<parameter=code>a\n</parameter>", json!({"code": "a\n"})),
        ("<parameter=code>\n\n</parameter>", json!({"code": ""})),
        ("<parameter=code></parameter>", json!({"code": ""})),
        ("<parameter=code>\n<p class=\"x\">1 &lt; 2</p>\n</parameter>", json!({"code": "<p class=\"x\">1 &lt; 2</p>"})),
        (
            "<parameter=code>\na </parameter> b <parameter=x> </function> c\n</parameter>",
            json!({"code": "a </parameter> b <parameter=x> </function> c"}),
        ),
        ("<parameter=code>\n5123\n</parameter>", json!({"code": "5123"})),
        ("<parameter=code>\nnull\n</parameter>", json!({"code": "null"})),
        ("<parameter=note>\nnull\n</parameter>", json!({"note": null})),
        ("<parameter=note>\nnullify\n</parameter>", json!({"note": "nullify"})),
        ("<parameter=unknown>\nNull\n</parameter>", json!({"unknown": null})),
        ("<parameter=unknown>\n12\n</parameter>", json!({"unknown": "12"})),
        ("<parameter=any>\n12\n</parameter>", json!({"any": "12"})),
        ("<parameter=any>\n{\"x\": 12}\n</parameter>", json!({"any": {"x": 12}})),
        ("<parameter=n>\n-14\n</parameter>\n<parameter=on>True</parameter>", json!({"n": -14, "on": true})),
        (
            "<parameter=todo>\n[{\"t\": \"a\", \"done\": false}]\n</parameter>",
            json!({"todo": [{"t": "a", "done": false}]}),
        ),
        ("<parameter=todo>\n['a', None]\n</parameter>", json!({"todo": ["a", null]})),
        ("<parameter=todo>\nnot a list\n</parameter>", json!({"todo": "not a list"})),
        // A closing tag twice, and an opening tag without its end.
        ("<parameter=n>1</parameter>\n</parameter>\n<parameter=code>x</parameter>", json!({"n": 1, "code": "x"})),
        ("<parameter=code\nx\n</parameter>", json!({"code": "x"})),
        ("<parameter= code >x</parameter>", json!({"code": "x"})),
        ("", json!({})),
    ] {
        for (open, close) in [
            ("<tool_call>\n<function=run>\n", "</function>\n</tool_call>"),
            ("<tool_call><function= run >", "</function></tool_call>"),
            ("<function=run>\n", "</function>\n</tool_call>"),
            ("<function=run>", "</function>"),
        ] {
            check(&setting, &format!("A.\n{open}{parameters}{close}\nB"), &[("run", arguments.clone())], "A.\nB");
        }
    }
    let two = [("now", json!({})), ("now", json!({}))];
    check(&setting, "<tool_call><function=now></function><function=now></function></tool_call>", &two, "");
    check(
        &setting,
        "<tool_call><function=now></function></tool_call>\n<tool_call>\n<function=now>\n</function></tool_call>",
        &two,
        "",
    );
    check(&setting, "<tool_call><function=now><function=now></function></tool_call>", &two, "");
    check(&setting, "<tool_call><function=now></tool_call>x", &two[..1], "x");
    check(&setting, "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>", &two[..1], "");
    check(&setting, "Write <function=other> yourself.", &[], "Write <function=other> yourself.");
}

#[test]
fn calls_within_open_reasoning() {
    let setting = Setting::of(Format::Qwen3Coder).thinking().in_reasoning();
    let call = "<tool_call>\n<function=now>\n</function>\n</tool_call>";
    for (text, reasoning, answer) in [
        (format!("Hm.\n</think>\n\n{call}"), "Hm.", ""),
        (format!("</think>\n\nLet me.\n{call}"), "", "Let me."),
        (format!("Hm.\n{call}"), "Hm.", ""),
        (call.to_owned(), "", ""),
        (format!("Hm.\n{call}\n</think>\nDone"), "Hm.", "Done"),
    ] {
        let reply = setting.reply(&text);
        assert_eq!(
            (reply.reasoning.as_str(), reply.text.as_str(), reply.calls.len()),
            (reasoning, answer, 1),
            "{text}"
        );
    }
}

#[test]
fn seed_oss() {
    let setting = Setting::of(Format::SeedOss)
        .tools(&json!([{"name": "f", "parameters": {"properties": {"s": {"type": "string"}}}}]));
    let text =
        "<seed:tool_call>\n<function=f>\n<parameter=s>a \"b\":\n  c\n</parameter>\n</function>\n</seed:tool_call>";
    check(&setting, text, &[("f", json!({"s": "a \"b\":\n  c\n"}))], "");
}

#[test]
fn glm() {
    let tools = json!([{"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "n": {"type": ["integer", "string"]}}, "required": ["s"]}}]);
    for format in [Format::Glm47, Format::Laguna] {
        let setting = Setting::of(format).tools(&tools);
        for (written, arguments) in [
            ("f\n<arg_key>s</arg_key>\n<arg_value>1</arg_value>\n", json!({"s": "1"})),
            ("f<arg_key>s</arg_key><arg_value>  a\n</arg_value>", json!({"s": "  a\n"})),
            (
                "f<arg_key>s</arg_key>\\n<arg_value>a </think> <tool_call> b</arg_value>",
                json!({"s": "a </think> <tool_call> b"}),
            ),
            ("f<arg_key>s</arg_key><arg_value></arg_value> x</arg_value>", json!({"s": "</arg_value> x"})),
            ("f<arg_key>n</arg_key><arg_value>7</arg_value>", json!({"n": 7})),
            ("f<arg_key>n</arg_key><arg_value>7 Main St</arg_value>", json!({"n": "7 Main St"})),
            ("f<arg_key>x</arg_key><arg_value>{'a': True}</arg_value>", json!({"x": {"a": true}})),
            ("f<arg_key>x<arg_value>7</arg_value>", json!({"x": 7})),
            ("f", json!({})),
            ("f\n", json!({})),
            ("f\n{\"s\": \"a\"}", json!({"s": "a"})),
            ("f {\"s\": \"a\"}", json!({"s": "a"})),
            ("f s=1 n=7 x='a b'", json!({"s": "1", "n": 7, "x": "a b"})),
            ("{\"name\": \"f\", \"arguments\": {\"s\": \"a\"}}", json!({"s": "a"})),
        ] {
            check(&setting, &format!("A\n<tool_call>{written}</tool_call>\nB"), &[("f", arguments)], "A\nB");
        }
        let reply = setting.reply("<tool_call>f please</tool_call>B");
        assert_eq!(
            (reply.text.as_str(), reply.invalid[0].reason.as_str()),
            ("B", "expected `<arg_key>` after the name `f`")
        );
        let reply = setting.reply("<tool_call>f<arg_key>s</arg_key></tool_call>B");
        assert_eq!((reply.text.as_str(), reply.invalid[0].reason.as_str()), ("B", "the key `s` has no value"));
    }
}

#[test]
fn longcat() {
    let setting = Setting::of(Format::Longcat).marks("<longcat_think>", "</longcat_think>");
    let pair = "<longcat_arg_key>n</longcat_arg_key>\n<longcat_arg_value>7</longcat_arg_value>\n";
    check(&setting, &format!("<longcat_tool_call>f\n{pair}</longcat_tool_call>"), &[("f", json!({"n": 7}))], "");
    let text = "<longcat_tool_call>{\"name\": \"f\", \"arguments\": {\"n\": 7}}</longcat_tool_call>";
    check(&setting, text, &[("f", json!({"n": 7}))], "");
}

#[test]
fn minimax() {
    let tools = json!([{"name": "f", "parameters": {"properties": {"s": {"type": "string"}, "o": {"type": "object"},
        "u": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, "required": ["s"]}}]);
    let setting = Setting::of(Format::MinimaxM2).tools(&tools);
    let f = |arguments| [("f", arguments)];
    let wrapped = |calls: &str| format!("<minimax:tool_call>\n{calls}\n</minimax:tool_call>");
    for (parameters, arguments) in [
        ("<parameter name=\"s\">a\n  b</parameter>\n", json!({"s": "a\n  b"})),
        ("<parameter name='s'>a</parameter><parameter name=o>{\"x\": 1}</parameter>", json!({"s": "a", "o": {"x": 1}})),
        ("<parameter name=\"o\">{\"x\": \"raw\nbreak\"}</parameter>", json!({"o": {"x": "raw\nbreak"}})),
        ("<parameter name=\"u\">none</parameter>", json!({"u": null})),
        ("<parameter name=\"u\">12</parameter>", json!({"u": 12})),
        ("\n", json!({})),
    ] {
        check(&setting, &wrapped(&format!("<invoke name=\"f\">{parameters}</invoke>")), &f(arguments), "");
    }
    let two = wrapped("<invoke name=\"f\"></invoke>\n<invoke name=\"g\"></invoke>");
    check(&setting, &format!("A\n{two}B"), &[("f", json!({})), ("g", json!({}))], "A\nB");
    // Without the closing marker what follows is text.
    check(&setting, "<minimax:tool_call><invoke name=\"f\"></invoke>\nDone.", &f(json!({})), "Done.");
}

#[test]
fn minicpm5() {
    let setting = Setting::of(Format::Minicpm5)
        .tools(&json!([{"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}]));
    for (params, arguments) in [
        ("<param name=\"s\">print('x')</param>", json!({"s": "print('x')"})),
        (
            "<param name=\"s\"><![CDATA[<a href=\"/x\">hi</a> </param>]]></param>",
            json!({"s": "<a href=\"/x\">hi</a> </param>"}),
        ),
        ("<param name=\"s\"><![CDATA[a[b[0]]>1]]></param>", json!({"s": "a[b[0]]>1"})),
        ("<param name=\"n\">3</param>", json!({"n": 3})),
        ("<param name=\"n\"><![CDATA[3]]></param>", json!({"n": 3})),
        ("", json!({})),
    ] {
        check(&setting, &format!("<function name=\"f\">{params}</function>"), &[("f", arguments)], "");
    }
    let two = "So <function name=\"f\"></function>\n<function name='g'></function> now";
    check(&setting, two, &[("f", json!({})), ("g", json!({}))], "So now");
}

#[test]
fn deepseek_v32() {
    let setting = Setting::of(Format::DeepseekV32).thinking().in_reasoning();
    let call = |parameters: &str| format!("<｜DSML｜invoke name=\"f\">\n{parameters}\n</｜DSML｜invoke>\n");
    for block in ["function_calls", "tool_calls"] {
        for (parameters, arguments) in [
            ("<｜DSML｜parameter name=\"s\" string=\"true\">7</｜DSML｜parameter>", json!({"s": "7"})),
            ("<｜DSML｜parameter name=\"s\" string=\"true\">null</｜DSML｜parameter>", json!({"s": "null"})),
            ("<｜DSML｜parameter name=\"n\" string=\"false\">-14</｜DSML｜parameter>", json!({"n": -14})),
            (
                "<｜DSML｜parameter name=\"n\" string=\"false\">[\"a\",{\"b\":2}]</｜DSML｜parameter>",
                json!({"n": ["a", {"b": 2}]}),
            ),
            ("<｜DSML｜parameter name=\"n\" string=\"false\">oops</｜DSML｜parameter>", json!({"n": "oops"})),
            ("<｜DSML｜parameter name=\"n\">2</｜DSML｜parameter>", json!({"n": 2})),
        ] {
            let text =
                format!("Hm</think>Now.\n\n<｜DSML｜{block}>\n{}{}</｜DSML｜{block}>", call(parameters), call(""));
            check(&setting, &text, &[("f", arguments), ("f", json!({}))], "Now.");
        }
    }
}

#[test]
fn kimi_k3() {
    let setting = Setting::of(Format::KimiK3);
    let answer = |calls: &str| {
        format!(
            "<|open|>response<|sep|>On it.<|close|>response<|sep|><|open|>tools<|sep|>{calls}<|close|>tools<|sep|><|close|>message<|sep|>"
        )
    };
    let argument = |key: &str, kind: &str, value: &str| {
        format!("<|open|>argument key=\"{key}\" type=\"{kind}\"<|sep|>{value}<|close|>argument<|sep|>")
    };
    let call =
        |name: &str, body: &str| format!("<|open|>call tool=\"{name}\" index=\"1\"<|sep|>{body}<|close|>call<|sep|>");
    let typed =
        argument("n", "number", "1") + &argument("s", "string", "1") + &argument("say &quot;x&quot;", "array", "[1]");
    let f = [("f", json!({"n": 1, "s": "1", "say \"x\"": [1]})), ("g", json!({}))];
    check(&setting, &answer(&(call("f", &typed) + &call("g", ""))), &f, "On it.");
    let block = "<|open|>json type=\"object\"<|sep|>{\"a\": {\"b\": 1}}<|close|>json<|sep|>";
    check(&setting, &answer(&call("f", block)), &[("f", json!({"a": {"b": 1}}))], "On it.");
    let reply = setting.reply(&answer("<|open|>call index=\"1\"<|sep|><|close|>call<|sep|>"));
    assert_eq!(reply.invalid[0].reason, "a call without a name: `<|open|>call index=\"1\"`");
}
