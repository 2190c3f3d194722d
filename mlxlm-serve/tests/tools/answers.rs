//! Text and reasoning around calls, ids, what is no call, and what comes out when.

use mlxlm_serve::reasoning::Budget;
use mlxlm_serve::tools::{Delta, Finish, Format, Stream, StreamOptions};
use serde_json::json;

use super::Setting;

fn thinking(text: &str, setting: &Setting) -> (String, String) {
    let reply = setting.reply(text);
    assert_eq!((&reply.calls[..], &reply.invalid[..]), (&[][..], &[][..]), "{text}");
    (reply.reasoning, reply.text)
}

#[track_caller]
fn check(setting: &Setting, text: &str, reasoning: &str, answer: &str) {
    let got = thinking(text, setting);
    assert_eq!((got.0.as_str(), got.1.as_str()), (reasoning, answer), "{text}");
}

#[test]
fn reasoning_is_what_stands_between_the_marks() {
    let none = Setting { options: StreamOptions::default(), finish: Finish::Stop }.thinking();
    check(&none, "<think>\nOne.\n\nTwo.\n</think>\n\nYes.", "One.\n\nTwo.", "Yes.");
    check(&none, "<think></think>Yes.", "", "Yes.");
    check(&none, "<think>\n\n</think>\n\nYes.\n", "", "Yes.\n");
    check(&none, "  Yes. \n", "", "  Yes. \n");
    check(&none, "No marks < here </thin k>", "", "No marks < here </thin k>");
    check(&none, "Well <think>hm</think> yes", "hm", "Well yes");
    check(&none, "<think>cut off", "cut off", "");
    check(&none, "<think>held back </thi", "held back </thi", "");
    check(&none, "a<think>b</think>c<think>d</think>e", "bd", "ace");
}

#[test]
fn reasoning_may_begin_in_the_prompt() {
    let open = Setting { options: StreamOptions::default(), finish: Finish::Stop }.thinking().in_reasoning();
    check(&open, "\nOne.\n</think>\n\nYes.", "One.", "Yes.");
    check(&open, "</think>Yes.", "", "Yes.");
    check(&open, "<think>\nagain\n</think>Yes.", "again", "Yes.");
    check(&open, "never ended", "never ended", "");
    check(&open, "the mark <think> itself</think>", "the mark <think> itself", "");
}

#[test]
fn a_stray_end_is_markup_where_no_text_came_before() {
    let none = Setting { options: StreamOptions::default(), finish: Finish::Stop }.thinking();
    check(&none, "</think>\n\nYes.", "", "Yes.");
    check(&none, "<think>a</think>\n</think>Yes.", "a", "Yes.");
    check(&none, "It ends with </think> there.", "", "It ends with </think> there.");
}

#[test]
fn without_marks_everything_is_text() {
    let plain = Setting { options: StreamOptions::default(), finish: Finish::Stop };
    check(&plain, "<think>a</think> <tool_call>\n", "", "<think>a</think> <tool_call>\n");
    let mut stream = Stream::new(plain.options);
    assert_eq!(stream.push("a \n"), [Delta::Text("a \n".into())], "and nothing is held back");
}

#[test]
fn marks_of_other_models() {
    let none = Setting { options: StreamOptions::default(), finish: Finish::Stop };
    check(&none.clone().marks("[THINK]", "[/THINK]"), "[THINK]a [x] b[/THINK]c", "a [x] b", "c");
    check(&none.clone().marks("◁think▷", "◁/think▷"), "◁think▷a◁/think▷c", "a", "c");
    check(&none.clone().marks("<seed:think>", "</seed:think>"), "<seed:think>a</seed:think>\nc", "a", "c");
    let gemma = Setting::of(Format::Gemma4).marks("<|channel>thought", "<channel|>");
    check(&gemma, "<|channel>thought\na\nb<channel|>c", "a\nb", "c");
    check(&gemma, "<|channel>thought<channel|>c", "", "c");
    check(&gemma, "<|channel>thought\n<channel|><channel|>c", "", "c");
    let kimi = Setting::of(Format::KimiK3).marks("<|open|>think<|sep|>", "<|close|>think<|sep|>").in_reasoning();
    let text = "a<|close|>think<|sep|><|open|>response<|sep|>b think c<|close|>response<|sep|><|close|>message<|sep|>";
    check(&kimi, text, "a", "b think c");
}

#[test]
fn calls_and_reasoning_may_alternate() {
    let setting = Setting::of(Format::Json).thinking();
    let call = "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n";
    let reply = setting.reply(&format!("<think>one</think>A{call}<think>two</think>B{call}{call}C"));
    assert_eq!((reply.reasoning.as_str(), reply.text.as_str(), reply.calls.len()), ("onetwo", "A\nB\nC", 3));
    // A call ends the reasoning; the mark that follows late is no text.
    let reply = setting.reply(&format!("<think>one{call}two</think>three"));
    assert_eq!((reply.reasoning.as_str(), reply.text.as_str(), reply.calls.len()), ("one", "twothree", 1));
}

#[test]
fn white_space_beside_calls_is_dropped() {
    let setting = Setting::of(Format::Json);
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    for (text, expected) in [
        (format!("A\n\n{call}\n{call}\nB\n"), "A\n\nB\n"),
        (format!("A{call} {call}B"), "A B"),
        (format!("\n{call}\n"), ""),
        (format!("  A  {call}"), "  A"),
    ] {
        assert_eq!(setting.reply(&text).text, expected, "{text}");
    }
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut stream = Stream::new(StreamOptions { format: Some(Format::Json), first_id: 7, ..StreamOptions::default() });
    let arguments = |delta: &str| Delta::CallArguments { index: 0, delta: delta.into() };
    assert_eq!(stream.push("Hi <tool_call>{\"name\": \"f\", \"arguments\""), [Delta::Text("Hi".into())]);
    let start = Delta::CallStart { index: 0, id: "call_0000000000000007".into(), name: "f".into() };
    assert_eq!(stream.push(":{\"a\":"), [start, arguments("{\"a\": ")]);
    assert_eq!(stream.push("\"One"), [arguments("\"One")]);
    assert_eq!(stream.push(" two"), [arguments(" two")]);
    assert_eq!(stream.push(" \\"), [arguments(" ")]);
    assert_eq!(stream.push("n\", \"b\": 1"), [arguments("\\n\", \"b\": ")]);
    assert_eq!(stream.push("2}"), [arguments("12}")]);
    assert_eq!(stream.push("}"), [Delta::CallEnd { index: 0, is_whole: true }]);
    assert_eq!(stream.push("</tool_call>"), []);
    assert_eq!(stream.push("bye"), [Delta::Text(" bye".into())]);
}

#[test]
fn text_values_come_as_they_are_written_too() {
    let tools = json!([{"name": "write", "parameters": {
        "properties": {"path": {"type": "string"}, "size": {"type": "integer"}}, "required": ["path"]}}]);
    let mut stream = Stream::new(Setting::of(Format::Qwen3Coder).tools(&tools).options);
    let arguments = |delta: &str| Delta::CallArguments { index: 0, delta: delta.into() };
    let start = Delta::CallStart { index: 0, id: "call_0000000000000000".into(), name: "write".into() };
    assert_eq!(stream.push("<tool_call>\n<function=write>\n"), [start]);
    assert_eq!(stream.push("<parameter=path>\n"), [arguments("{\"path\": ")]);
    assert_eq!(stream.push("a/b\nc"), [arguments("\"a/b\\nc")]);
    assert_eq!(stream.push("\"\n"), [arguments("\\\"")]);
    assert_eq!(stream.push("</parameter>"), []);
    assert_eq!(stream.push("\n<parameter=size>\n1"), [arguments("\", \"size\": ")]);
    assert_eq!(stream.push("2\n</parameter>\n</fun"), []);
    assert_eq!(stream.push("ction>"), [arguments("12}"), Delta::CallEnd { index: 0, is_whole: true }]);
}

#[test]
fn ids_follow_the_given_number_and_mistral_takes_nine_characters() {
    let ids = |format, first_id, text: &str| {
        let mut setting = Setting::of(format);
        setting.options.first_id = first_id;
        setting.reply(text).calls.into_iter().map(|call| call.id).collect::<Vec<_>>()
    };
    let two = "<tool_call>{\"name\": \"f\"}</tool_call>".repeat(2);
    assert_eq!(ids(Format::Json, 255, &two), ["call_00000000000000ff", "call_0000000000000100"]);
    let two = "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[ARGS]{}";
    assert_eq!(ids(Format::Mistral, 61, two), ["00000000z", "000000010"]);
    assert_eq!(ids(Format::Mistral, u64::MAX, two).iter().map(String::len).collect::<Vec<_>>(), [9, 9]);
    // The model's own, where it comes in time.
    assert_eq!(ids(Format::Mistral, 0, "[TOOL_CALLS]f[CALL_ID]aBc456789[ARGS]{}"), ["aBc456789"]);
    let early = "[TOOL_CALLS][{\"id\": \"123456789\", \"name\": \"f\", \"arguments\": {}}]";
    assert_eq!(ids(Format::Mistral, 0, early), ["123456789"]);
    let late = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}, \"id\": \"123456789\"}]";
    assert_eq!(ids(Format::Mistral, 0, late), ["000000000"]);
}

#[test]
fn a_call_that_breaks_off_is_not_whole() {
    for (format, text, arguments) in [
        (Format::Json, "<tool_call>{\"name\": \"rm\", \"arguments\": {\"path\": \"/tm", "{\"path\": \"/tm"),
        (Format::Json, "<tool_call>{\"name\": \"rm\", \"arguments\": {\"n\": 1", "{\"n\": 1"),
        (Format::Mistral, "[TOOL_CALLS]rm[ARGS]{\"path\": \"/tmp\"", "{\"path\": \"/tmp\""),
        (Format::Pythonic, "<|tool_call_start|>[rm(path='/tm", "{\"path\": \"/tm"),
        (Format::Qwen3Coder, "<tool_call><function=rm><parameter=path>/tm", "{\"path\": \"/tm"),
        (Format::Glm47, "<tool_call>rm<arg_key>path</arg_key><arg_value>/tm", "{\"path\": "),
        (
            Format::KimiK2,
            "<|tool_call_begin|>functions.rm:0<|tool_call_argument_begin|>{\"path\": \"/tm",
            "{\"path\": \"/tm",
        ),
        (Format::Gemma4, "<|tool_call>call:rm{path:<|\"|>/tm", "{\"path\": \"/tm"),
        (Format::Harmony, " to=functions.rm<|channel|>commentary<|message|>{\"path\": \"/tm", "{\"path\": \"/tm"),
    ] {
        for setting in [Setting::of(format), Setting::of(format).cut()] {
            let reply = setting.reply(text);
            assert_eq!((reply.calls.len(), reply.calls[0].is_whole), (1, false), "{text}");
            assert_eq!((reply.calls[0].arguments.as_str(), reply.text.as_str()), (arguments, ""), "{text}");
        }
    }
}

#[test]
fn only_the_closing_tags_may_be_missing_at_a_natural_end() {
    let calls = [
        (Format::Qwen3Coder, "<tool_call><function=f><parameter=a>1</parameter>"),
        (Format::MinimaxM2, "<minimax:tool_call><invoke name=\"f\"><parameter name=\"a\">1</parameter>"),
        (Format::Glm47, "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>"),
    ];
    for (format, text) in calls {
        assert!(Setting::of(format).reply(text).calls[0].is_whole, "{text}");
        assert!(!Setting::of(format).cut().reply(text).calls[0].is_whole, "{text}");
    }
}

#[test]
fn what_is_no_call_is_not_lost() {
    for (format, text, answer, invalid, reason) in [
        (
            Format::Json,
            "A<tool_call>none</tool_call>B",
            "AB",
            "<tool_call>none</tool_call>",
            "expected a call in JSON, found `n`",
        ),
        (
            Format::Json,
            "<tool_call>{\"arguments\": {}}</tool_call>",
            "",
            "<tool_call>{\"arguments\": {}}</tool_call>",
            "a call without a name",
        ),
        (
            Format::Json,
            "<tool_call>{\"name\": \"f\", \"argu",
            "",
            "<tool_call>{\"name\": \"f\", \"argu",
            "the text ends within a call",
        ),
        (Format::Json, "<tool_call></tool_call>", "", "<tool_call></tool_call>", "expected a call in JSON, found `<`"),
        (
            Format::Mistral,
            "[TOOL_CALLS] no call",
            "call",
            "[TOOL_CALLS] no ",
            "expected a name and `[ARGS]` after `[TOOL_CALLS]`, found `no`",
        ),
        (
            Format::MinimaxM2,
            "<minimax:tool_call>x</minimax:tool_call>y",
            "y",
            "<minimax:tool_call>x</minimax:tool_call>",
            "there is no call between the markers",
        ),
        (
            Format::Gemma4,
            "<|tool_call>f{}<tool_call|>",
            "",
            "<|tool_call>f{}<tool_call|>",
            "expected `call:`, found `f`",
        ),
        (
            Format::Glm47,
            "<tool_call><b></tool_call>",
            "",
            "<tool_call><b></tool_call>",
            "expected the name of a tool, found `<`",
        ),
        (
            Format::KimiK2,
            "<|tool_calls_section_begin|>x<|tool_calls_section_end|>",
            "",
            "<|tool_calls_section_begin|>x<|tool_calls_section_end|>",
            "expected `<|tool_call_begin|>`, found `x`",
        ),
    ] {
        let reply = Setting::of(format).reply(text);
        assert_eq!((reply.text.as_str(), reply.calls.len()), (answer, 0), "{text}");
        let got: Vec<_> = reply.invalid.iter().map(|i| (i.text.as_str(), i.reason.as_str())).collect();
        assert_eq!(got, [(invalid, reason)], "{text}");
    }
}

#[test]
fn a_call_that_goes_wrong_ends_there() {
    let reply =
        Setting::of(Format::Json).reply("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1 2}}</tool_call>B");
    assert_eq!((reply.calls.len(), reply.calls[0].is_whole, reply.text.as_str()), (1, false, "B"));
    assert_eq!(reply.invalid[0].text, "2}}</tool_call>");
    assert_eq!(reply.invalid[0].reason, "expected `,` or `}`, found `2`");
}

#[test]
fn a_budget_ends_reasoning_in_every_format() {
    for (setting, end) in [
        (Setting::of(Format::Json).thinking(), "</think>"),
        (Setting::of(Format::Harmony), "<|end|><|start|>assistant<|channel|>final<|message|>"),
        (Setting::of(Format::MuseSpark), "<|eom|><|start|>assistant to=user<|message|>"),
    ] {
        let mut stream = Stream::new(setting.in_reasoning().options);
        let mut budget = Budget::new(2);
        let mut deltas = Vec::new();
        for word in ["one", " two", " three"] {
            if budget.is_spent() {
                break;
            }
            deltas.extend(stream.push(word));
            budget.count(stream.in_reasoning());
        }
        assert_eq!(stream.end_marker().as_deref(), Some(end));
        deltas.extend(stream.push(end));
        assert!(!stream.in_reasoning());
        deltas.extend(stream.push("Yes"));
        let reasoning = ["one", " two"].map(|text| Delta::Reasoning(text.into()));
        assert_eq!(deltas, [&reasoning[..], &[Delta::Text("Yes".into())]].concat());
    }
}

#[test]
fn streams_may_go_to_other_threads() {
    let mut stream = Stream::new(Setting::of(Format::Json).options);
    assert_eq!(stream.push("a"), [Delta::Text("a".into())]);
    let deltas = std::thread::spawn(move || stream.push("b")).join().unwrap();
    assert_eq!(deltas, [Delta::Text("b".into())]);
}
