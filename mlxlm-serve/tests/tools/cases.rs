//! Awkward answers, format by format. What they are about was met in issues of servers and in the tests of llama.cpp.

mod headed;
mod json;
mod messages;
mod tags;

use serde_json::Value;

use super::Setting;

/// Checks that a text is read as these calls, all of them whole, and as this text of the answer.
#[track_caller]
fn check(setting: &Setting, text: &str, calls: &[(&str, Value)], answer: &str) {
    let reply = setting.reply(text);
    assert_eq!(reply.invalid, [], "{text}");
    assert!(reply.calls.iter().all(|call| call.is_whole), "broken: {text}");
    let got: Vec<_> = reply
        .calls
        .iter()
        .map(|call| (call.name.as_str(), serde_json::from_str(&call.arguments).expect("arguments are JSON")))
        .collect();
    assert_eq!(got, calls, "{text}");
    assert_eq!(reply.text, answer, "{text}");
}
