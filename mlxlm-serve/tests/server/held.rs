//! Answers that are held to a format, and calls that are held to a schema: also in streams, batches and with proposals.

use std::sync::Arc;
use std::thread;

use mlxlm_serve::{EngineOptions, ServerOptions};
use serde_json::{Value, json};

use crate::house::{House, options};
use crate::models::loader;

fn schema() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 120}},
    })
}

#[track_caller]
fn check(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(["Ann", "Bob"].contains(&value["name"].as_str().unwrap()), "{text}");
    assert!((1..=120).contains(&value["age"].as_u64().unwrap()), "{text}");
    assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
}

fn content(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

/// A model that would say anything but JSON.
fn wild() -> House {
    let engine = EngineOptions { prompt_lookup_num_tokens: Some(8), ..EngineOptions::default() };
    House::with(ServerOptions { engine, ..options() }, loader("qwen3_next"))
}

#[test]
fn every_api_holds_answers_to_a_schema() {
    let house = wild();
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema(), "strict": true}});
    let fields = json!({"response_format": format, "max_tokens": 200, "temperature": 1.0, "seed": 3});
    check(&content(&house.chat("Who?", fields.clone()).ok()));
    // In a stream.
    let mut stream = fields.clone();
    stream["stream"] = true.into();
    let (events, _) = house.chat("Who?", stream).events();
    check(&events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect::<String>());
    // Text as it is.
    let mut body = fields;
    body["prompt"] = json!(["one", "two"]);
    body["n"] = 2.into();
    let answer = house.post("/v1/completions", &body).ok();
    answer["choices"].as_array().unwrap().iter().for_each(|choice| check(choice["text"].as_str().unwrap()));
    let body = json!({
        "model": "demo", "input": "Who?", "max_output_tokens": 200,
        "text": {"format": {"type": "json_schema", "name": "person", "schema": schema(), "strict": true}},
    });
    let answer = house.post("/v1/responses", &body).ok();
    check(answer["output"][0]["content"][0]["text"].as_str().unwrap());
    let body = json!({
        "model": "demo", "max_tokens": 200, "messages": [{"role": "user", "content": "Who?"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema()}},
    });
    let answer = house.post("/v1/messages", &body).ok();
    check(answer["content"][0]["text"].as_str().unwrap());
}

#[test]
fn the_fields_of_other_servers_are_known() {
    let house = wild();
    let say = |fields: Value| {
        let mut fields = fields;
        fields["max_tokens"] = 120.into();
        content(&house.chat("Who?", fields).ok())
    };
    check(&say(json!({"guided_json": schema()})));
    assert!(["yes", "no"].contains(&say(json!({"guided_choice": ["yes", "no"]})).as_str()));
    let number = say(json!({"guided_regex": "[0-9]{3}/[a-c]"}));
    assert!(number.len() == 5 && number.as_bytes()[3] == b'/', "{number}");
    assert_eq!(say(json!({"guided_grammar": "start: \"a\" \"b\"+ \"c\"\n".replace('+', "")})), "abc");
    check(&say(json!({"structured_outputs": {"json": schema()}})));
    let object = say(json!({"response_format": {"type": "json_object"}, "temperature": 0.0}));
    assert!(object.starts_with('{'), "{object}");
}

#[test]
fn a_batch_holds_each_to_its_own() {
    let house = Arc::new(wild());
    let threads: Vec<_> = (0..6)
        .map(|i: u64| {
            let house = Arc::clone(&house);
            thread::spawn(move || {
                let fields = match i % 3 {
                    0 => json!({"guided_json": schema()}),
                    1 => json!({"guided_choice": ["left", "right"]}),
                    _ => json!({"ignore_eos": true}),
                };
                let mut fields = fields;
                fields["max_tokens"] = 60.into();
                fields["seed"] = i.into();
                fields["temperature"] = 1.0.into();
                let text = content(&house.chat("Say.", fields).ok());
                match i % 3 {
                    0 => check(&text),
                    1 => assert!(["left", "right"].contains(&text.as_str()), "{text}"),
                    _ => assert!(!text.is_empty()),
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn tool(strict: Option<bool>) -> Value {
    json!({"type": "function", "function": {
        "name": "book", "strict": strict, "description": "Books a table.",
        "parameters": {
            "type": "object", "additionalProperties": false, "required": ["people", "day"],
            "properties": {
                "people": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many."},
                "day": {"enum": ["Monday", "Friday"]},
            },
        },
    }})
}

#[track_caller]
fn check_call(call: &Value) {
    assert_eq!(call["function"]["name"], "book");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!((1..=9).contains(&arguments["people"].as_u64().unwrap()), "{arguments}");
    assert!(["Monday", "Friday"].contains(&arguments["day"].as_str().unwrap()), "{arguments}");
}

#[test]
fn a_call_that_is_required_is_made_and_fits() {
    let house = wild();
    let named = json!({"type": "function", "function": {"name": "book"}});
    for choice in [json!("required"), named] {
        for stream in [false, true] {
            let fields = json!({
                "tools": [tool(None)], "tool_choice": choice, "max_tokens": 200, "temperature": 1.0, "seed": 5,
                "parallel_tool_calls": false, "stream": stream,
            });
            let answer = house.chat("A table, please.", fields);
            if stream {
                let (events, _) = answer.events();
                let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0));
                let (mut name, mut arguments) = (String::new(), String::new());
                for delta in deltas {
                    name += delta["function"]["name"].as_str().unwrap_or_default();
                    arguments += delta["function"]["arguments"].as_str().unwrap_or_default();
                }
                check_call(&json!({"function": {"name": name, "arguments": arguments}}));
            } else {
                let answer = answer.ok();
                assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
                check_call(&answer["choices"][0]["message"]["tool_calls"][0]);
            }
        }
    }
    let body = json!({
        "model": "demo", "max_tokens": 200, "messages": [{"role": "user", "content": "A table, please."}],
        "tools": [{"name": "book", "input_schema": tool(None)["function"]["parameters"]}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
    });
    let answer = house.post("/v1/messages", &body).ok();
    let input = answer["content"][0]["input"].to_string();
    check_call(&json!({"function": {"name": answer["content"][0]["name"], "arguments": input}}));
}

#[test]
fn strict_tools_leave_text_free() {
    let house = House::demo();
    let fields = json!({"tools": [tool(Some(true))], "max_tokens": 30});
    let free = house.chat("What is the capital of France?", fields).ok();
    assert!(!content(&free).is_empty() || free["choices"][0]["message"]["tool_calls"].is_array(), "{free}");
    if let Some(calls) = free["choices"][0]["message"]["tool_calls"].as_array() {
        calls.iter().for_each(check_call);
    }
}

#[test]
fn what_cannot_be_held_is_refused_at_once() {
    let house = House::demo();
    let refused = |fields: Value| house.chat("hi", fields).refused(400);
    assert!(refused(json!({"guided_regex": "("})).contains("guided_regex"));
    assert!(refused(json!({"guided_json": {"type": "nothing"}})).contains("guided_json"));
    assert!(refused(json!({"guided_grammar": "start: nothing"})).contains("guided_grammar"));
    assert!(refused(json!({"guided_choice": []})).contains("guided_choice"));
    let unsatisfiable = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": []}}});
    assert!(refused(json!({"response_format": unsatisfiable})).contains("response_format"));
    let mut deep = json!({"type": "integer"});
    for _ in 0..200 {
        deep = json!({"type": "array", "items": deep});
    }
    refused(json!({"guided_json": deep}));
    assert!(refused(json!({"guided_json": {"type": "integer", "multipleOf": 999_983}})).contains("guided_json"));
    // The next request works.
    house.chat("hi", json!({"max_tokens": 2})).ok();
}
