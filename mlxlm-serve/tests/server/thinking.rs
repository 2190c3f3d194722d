//! Thinking has an end: a model that counts thinks from `w70` to `w90`, unless it is stopped.

use std::time::Duration;

use mlxlm_serve::Loader;
use serde_json::{Value, json};

use crate::counter::thinker;
use crate::house::House;

fn loader() -> Loader {
    thinker(Duration::ZERO)
}

fn ask(house: &House, prompt: &str, fields: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": 26});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    house.post("/v1/chat/completions", &body).ok()
}

/// The words of the thinking, and those of the answer.
fn words(answer: &Value) -> (Vec<&str>, Vec<&str>) {
    let message = &answer["choices"][0]["message"];
    let words = |name: &str| message[name].as_str().unwrap_or_default().split_whitespace().collect();
    (words("reasoning_content"), words("content"))
}

#[test]
fn a_budget_ends_thinking() {
    let house = House::with(crate::house::options(), loader());
    let free = ask(&house, "w68", json!({}));
    let (thought, _) = words(&free);
    assert_eq!((thought.first(), thought.last(), thought.len()), (Some(&"w71"), Some(&"w89"), 19), "{free}");
    let names = ["thinking_budget", "thinking_token_budget", "thinking_budget_tokens", "reasoning_budget"];
    for name in names {
        let answer = ask(&house, "w68", json!({name: 5}));
        let (thought, said) = words(&answer);
        assert_eq!(thought, ["w71", "w72", "w73", "w74", "w75"], "{answer}");
        // After its end the model goes on from there.
        assert_eq!(said[..3], ["w69", "w91", "w92"], "{answer}");
        assert_eq!(answer["usage"]["completion_tokens"], 26, "{answer}");
    }
    // Enough is no end.
    assert_eq!(words(&ask(&house, "w68", json!({"thinking_budget": 30}))), words(&free));
}

#[test]
fn thinking_that_the_prompt_begins_has_an_end_too() {
    let house = House::with(crate::house::options(), loader());
    let answer = ask(&house, "w5 <think>", json!({"thinking_budget": 3}));
    assert_eq!(words(&answer).0, ["w71", "w72", "w73"], "{answer}");
    let answer = ask(&house, "w5 <think>", json!({"thinking_budget": 0}));
    assert_eq!(words(&answer).0, Vec::<&str>::new(), "{answer}");
    assert_eq!(words(&answer).1[0], "w91", "{answer}");
}

#[test]
fn streams_and_several_answers_have_their_own_thinking() {
    let house = House::with(crate::house::options(), loader());
    let answer = ask(&house, "w68", json!({"thinking_budget": 4, "n": 3, "seed": 1}));
    for choice in answer["choices"].as_array().unwrap() {
        let thought = choice["message"]["reasoning_content"].as_str().unwrap();
        assert_eq!(thought.split_whitespace().count(), 4, "{answer}");
    }
    let body = json!({
        "messages": [{"role": "user", "content": "w68"}], "max_tokens": 20, "thinking_budget": 4, "stream": true,
        "logprobs": true,
    });
    let (events, is_done) = house.post("/v1/chat/completions", &body).events();
    assert!(is_done);
    let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["reasoning_content"].as_str());
    assert_eq!(deltas.collect::<String>().split_whitespace().count(), 4, "{events:?}");
}

#[test]
fn anthropic_budgets_count() {
    let house = House::with(crate::house::options(), loader());
    let body = json!({
        "model": "demo", "messages": [{"role": "user", "content": "w68"}], "max_tokens": 20,
        "thinking": {"type": "enabled", "budget_tokens": 6},
    });
    let answer = house.post("/v1/messages", &body).ok();
    let thinking = answer["content"].as_array().unwrap().iter().find(|block| block["type"] == "thinking").unwrap();
    assert_eq!(thinking["thinking"].as_str().unwrap().split_whitespace().count(), 6, "{answer}");
}

#[test]
fn a_format_is_held_after_thinking() {
    let house = House::with(crate::house::options(), loader());
    for (prompt, budget) in [("w5 <think>", 3), ("w5 <think>", 100), ("w5", 5)] {
        let fields = json!({"thinking_budget": budget, "guided_regex": " ?w[78]"});
        let answer = ask(&house, prompt, fields);
        let (_, said) = words(&answer);
        assert!(said == ["w7"] || said == ["w8"], "{prompt} {budget}: {answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    }
}
