//! Calls of tools: one conversation in each API, with the demo model, which knows `get_weather`.

use serde_json::{Value, json};

use crate::house::{House, NAME};

const QUESTION: &str = "What is the weather in Paris?";

fn function() -> Value {
    json!({
        "name": "get_weather", "description": "Get the current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    })
}

fn tools() -> Value {
    json!([{"type": "function", "function": function()}])
}

#[test]
fn a_chat_calls_a_tool_and_reads_its_result() {
    let house = House::demo();
    let answer = house.chat(QUESTION, json!({"tools": tools(), "max_tokens": 60})).ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let message = &choice["message"];
    assert!(message["content"].is_null(), "{message}");
    let call = &message["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris"}));
    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": "{\"temperature\": 7, \"condition\": \"rainy\"}"});
    let messages = json!([{"role": "user", "content": QUESTION}, message, result]);
    let body = json!({"model": NAME, "messages": messages, "tools": tools(), "max_tokens": 60});
    let last = house.post("/v1/chat/completions", &body).ok();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(last["choices"][0]["message"]["content"].as_str().unwrap().contains("rainy"), "{last}");
}

#[test]
fn a_stream_has_the_call_in_pieces() {
    let house = House::demo();
    let answer = house.chat(QUESTION, json!({"tools": tools(), "max_tokens": 60, "stream": true}));
    assert!(!answer.body.contains("tool_call>"), "{}", answer.body);
    let (events, is_done) = answer.events();
    assert!(is_done);
    let deltas: Vec<&Value> =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0)).collect();
    assert_eq!((&deltas[0]["function"]["name"], &deltas[0]["index"]), (&json!("get_weather"), &json!(0)));
    assert!(deltas[0]["id"].is_string() && deltas[1..].iter().all(|delta| delta.get("id").is_none()));
    let arguments: String = deltas.iter().map(|delta| delta["function"]["arguments"].as_str().unwrap()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"city": "Paris"}));
    assert!(deltas.len() > 2, "{deltas:?}");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

/// The call is begun for the model; what follows is its own, and no grammar holds it to a call yet.
#[test]
fn a_call_that_is_required_is_begun() {
    let house = House::demo();
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for choice in [json!("required"), named] {
        for stream in [false, true] {
            let fields = json!({"tools": tools(), "tool_choice": choice, "max_tokens": 60, "stream": stream});
            let answer = house.chat(QUESTION, fields);
            assert!(answer.body.contains("get_weather") && answer.body.contains("\"tool_calls\""), "{answer:?}");
            assert!(!answer.body.contains("tool_call>"), "{answer:?}");
        }
    }
}

#[test]
fn without_a_choice_there_is_no_call() {
    let house = House::demo();
    let answer = house.chat(QUESTION, json!({"tools": tools(), "tool_choice": "none", "max_tokens": 60})).ok();
    let message = &answer["choices"][0]["message"];
    assert!(message.get("tool_calls").is_none() && message["content"].is_string(), "{message}");
}

#[test]
fn a_message_of_anthropic_calls_a_tool() {
    let house = House::demo();
    let mut tool = function();
    tool["input_schema"] = tool["parameters"].take();
    tool.as_object_mut().unwrap().remove("parameters");
    let body = json!({
        "model": NAME, "max_tokens": 60, "tools": [tool], "messages": [{"role": "user", "content": QUESTION}],
    });
    let message = house.post("/v1/messages", &body).ok();
    assert_eq!(message["stop_reason"], "tool_use", "{message}");
    let block = message["content"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&block["type"], &block["name"], &block["input"]),
        (&json!("tool_use"), &json!("get_weather"), &json!({"city": "Paris"}))
    );
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let text = house.post("/v1/messages", &streamed).body;
    assert!(text.contains("input_json_delta") && text.contains("\"stop_reason\":\"tool_use\""), "{text}");
    let mut next = body;
    next["messages"] = json!([
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "rainy, 7 degrees"}]},
    ]);
    let last = house.post("/v1/messages", &next).ok();
    assert!(last["content"][0]["text"].as_str().unwrap().contains("rainy"), "{last}");
}

#[test]
fn a_response_calls_a_tool_and_is_gone_on_from() {
    let house = House::demo();
    let mut tool = function();
    tool["type"] = "function".into();
    let body = json!({"model": NAME, "max_output_tokens": 60, "tools": [tool], "input": QUESTION});
    let first = house.post("/v1/responses", &body).ok();
    let call = first["output"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&call["type"], &call["name"], &call["status"]),
        (&json!("function_call"), &json!("get_weather"), &json!("completed"))
    );
    let mut next = body;
    next["previous_response_id"] = first["id"].clone();
    next["input"] = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "rainy, 7 degrees"}]);
    let last = house.post("/v1/responses", &next).ok();
    assert!(last["output"][0]["content"][0]["text"].as_str().unwrap().contains("rainy"), "{last}");
}
