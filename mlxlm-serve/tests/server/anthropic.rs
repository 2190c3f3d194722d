//! `/v1/messages`.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::house::{House, NAME};

fn ask(house: &House, fields: Value) -> Answer {
    let mut body =
        json!({"model": NAME, "max_tokens": 16, "messages": [{"role": "user", "content": "Tell me a story."}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    house.post("/v1/messages", &body)
}

/// The names of the events, and what they hold.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let event = |event: &str| {
        let mut lines = event.lines().filter(|line| !line.starts_with(':'));
        let name = lines.next()?.strip_prefix("event: ").unwrap().to_owned();
        Some((name, serde_json::from_str(lines.next().unwrap().strip_prefix("data: ").unwrap()).unwrap()))
    };
    answer.body.split_terminator("\n\n").filter_map(event).collect()
}

#[test]
fn a_message_is_what_a_chat_would_say() {
    let house = House::demo();
    let chat = house.chat("Tell me a story.", json!({"max_tokens": 16})).ok();
    let message = ask(&house, json!({})).ok();
    let block = json!({"type": "text", "text": chat["choices"][0]["message"]["content"], "citations": null});
    assert_eq!(message["content"], json!([block]));
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!((&message["stop_reason"], &message["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(16)));
    let counted = house.post(
        "/v1/messages/count_tokens",
        &json!({"model": NAME, "messages": [{"role": "user", "content": "Tell me a story."}]}),
    );
    assert_eq!(counted.ok()["input_tokens"], chat["usage"]["prompt_tokens"]);
}

#[test]
fn a_stream_has_blocks_that_begin_and_end() {
    let house = House::demo();
    let whole = ask(&house, json!({})).ok();
    let events = events(&ask(&house, json!({"stream": true})));
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert!(events.iter().all(|(name, event)| event["type"] == **name));
    let text: String = events.iter().filter_map(|(_, event)| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());
    let end = &events[events.len() - 2].1;
    assert_eq!((&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(16)));
}

#[test]
fn a_stop_sequence_is_named() {
    let house = House::demo();
    let text = ask(&house, json!({})).ok()["content"][0]["text"].as_str().unwrap().to_owned();
    let word = text.split_whitespace().nth(3).unwrap();
    let message = ask(&house, json!({"stop_sequences": ["not in it", word]})).ok();
    assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!("stop_sequence"), &json!(word)));
}

#[test]
fn what_agents_send_is_taken() {
    let house = House::demo();
    let fields = json!({
        "system": [{"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "x"},
        "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "auto"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Rome"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
            {"role": "system", "content": "Be short."},
        ],
    });
    ask(&house, fields).ok();
}

#[test]
fn errors_are_in_its_own_shape() {
    let house = House::demo();
    for (fields, status, kind, names) in [
        (json!({"max_tokens": null}), 400, "invalid_request_error", "max_tokens"),
        (json!({"messages": []}), 400, "invalid_request_error", "messages"),
        (json!({"temperature": "x"}), 400, "invalid_request_error", "temperature"),
        (json!({"colour": 1}), 400, "invalid_request_error", "colour"),
        (json!({"tool_choice": {"type": "any"}}), 400, "invalid_request_error", "tool_choice.type"),
        (json!({"model": "claude"}), 404, "not_found_error", "claude"),
    ] {
        let answer = ask(&house, fields);
        assert_eq!(answer.status, status, "{answer:?}");
        let body = answer.json();
        assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)));
        assert!(body["error"]["message"].as_str().unwrap().contains(names), "{body}");
    }
}

#[test]
fn a_thread_goes_on_where_it_was() {
    let house = House::demo();
    let system = json!({"system": "You are kind."});
    let mut begin = system.clone();
    begin["thread"] = json!({"type": "create"});
    let first = ask(&house, begin).ok();
    let next = json!({"role": "user", "content": "And then?"});
    let thread = json!({"type": "continue", "previous_message_id": first["id"]});
    let second = ask(&house, json!({"thread": thread, "messages": [next]})).ok();
    let text = &first["content"][0]["text"];
    let whole = json!([{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": text}, next]);
    let sent = ask(&house, json!({"system": "You are kind.", "messages": whole})).ok();
    assert_eq!(second["content"], sent["content"]);
    let lost = ask(&house, json!({"thread": {"type": "continue", "previous_message_id": "msg_0"}}));
    assert_eq!((lost.status, &lost.json()["error"]["details"]["error_code"]), (404, &json!("thread_not_found")));
}
