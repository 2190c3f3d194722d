//! `/v1/responses`.

use serde_json::{Value, json};

use crate::house::{House, NAME};

fn ask(house: &House, fields: Value) -> Value {
    let mut body = json!({"model": NAME, "input": "Tell me a story.", "max_output_tokens": 16});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    house.post("/v1/responses", &body).ok()
}

#[test]
fn a_response_is_what_a_chat_would_say() {
    let house = House::demo();
    let chat = house.chat("Tell me a story.", json!({"max_tokens": 16})).ok();
    let response = ask(&house, json!({}));
    assert_eq!(response["output"][0]["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!((&response["object"], &response["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["usage"]["output_tokens"], 16);
    let short = ask(&house, json!({"input": "What is the capital of France?", "max_output_tokens": 64}));
    assert_eq!((&short["status"], &short["output"][0]["status"]), (&json!("completed"), &json!("completed")));
}

#[test]
fn the_events_of_a_stream_are_numbered_and_end() {
    let house = House::demo();
    let whole = ask(&house, json!({}));
    let body = json!({"model": NAME, "input": "Tell me a story.", "max_output_tokens": 16, "stream": true});
    let (events, _) = house.post("/v1/responses", &body).events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let begin =
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    assert_eq!(kinds[..4], begin);
    let end =
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"];
    assert_eq!(kinds[kinds.len() - 4..], end);
    assert!(events.iter().enumerate().all(|(i, event)| event["sequence_number"] == i));
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, whole["output"][0]["content"][0]["text"].as_str().unwrap());
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["id"], events[0]["response"]["id"]);
}

#[test]
fn a_conversation_goes_on_by_name() {
    let house = House::demo();
    let first = ask(&house, json!({"instructions": "You are kind."}));
    let second = ask(&house, json!({"input": "And then?", "previous_response_id": first["id"]}));
    // The same as when all of it is sent, without the instructions of the first.
    let text = &first["output"][0]["content"][0]["text"];
    let input = json!([
        {"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": text},
        {"role": "user", "content": "And then?"},
    ]);
    let sent = ask(&house, json!({"input": input, "store": false}));
    assert_eq!(second["output"][0]["content"], sent["output"][0]["content"]);
    let id = first["id"].as_str().unwrap();
    assert_eq!(house.get(&format!("/v1/responses/{id}")).ok(), first);
    house.get(&format!("/v1/responses/{}", sent["id"].as_str().unwrap())).refused(404);
    assert_eq!(house.ask("DELETE", &format!("/v1/responses/{id}"), &[], b"").ok()["deleted"], true);
    let body = json!({"model": NAME, "input": "x", "previous_response_id": id});
    house.post("/v1/responses", &body).refused(404);
}

#[test]
fn what_is_not_supported_is_named() {
    let house = House::demo();
    for (fields, param) in [
        (json!({"model": null}), "model"),
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
        (json!({"background": true}), "background"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"colour": 1}), "colour"),
    ] {
        let mut body = json!({"model": NAME, "input": "x"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = house.post("/v1/responses", &body);
        answer.refused(400);
        assert_eq!(answer.json()["error"]["param"], param);
    }
}
