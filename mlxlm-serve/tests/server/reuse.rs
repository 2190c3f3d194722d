//! Prompts that begin as others did are not read again, and nobody can tell by the text.

use mlxlm_serve::{EngineOptions, ServerOptions};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::house::{House, demo, options};
use crate::models::loader;
use mlxlm_serve::Models;

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

fn without_cache() -> House {
    let engine = EngineOptions { prompt_cache_size: 0, ..EngineOptions::default() };
    House::with(ServerOptions { engine, ..options() }, Arc::new(|| Ok(Models { main: demo(), draft: None })))
}

#[test]
fn the_next_turn_reads_only_what_is_new() {
    let (house, plain) = (House::demo(), without_cache());
    let mut messages = vec![json!({"role": "user", "content": "Tell me a story about a dog."})];
    for question in ["And then?", "Who was it?", "The end?"] {
        let body = json!({"messages": messages, "max_tokens": 20});
        let (with, without) =
            (house.post("/v1/chat/completions", &body).ok(), plain.post("/v1/chat/completions", &body).ok());
        assert_eq!(with["choices"][0]["message"], without["choices"][0]["message"]);
        assert_eq!(cached(&without), 0);
        if messages.len() > 1 {
            let total = with["usage"]["prompt_tokens"].as_u64().unwrap();
            // A question and the marks around it.
            assert!(total - cached(&with) < 24, "{} of {total}", cached(&with));
        }
        messages.push(with["choices"][0]["message"].clone());
        messages.push(json!({"role": "user", "content": question}));
    }
}

/// The tokens of a conversation as the model reads it, without the beginning of an answer behind it.
fn tokens(house: &House, messages: &[Value]) -> u64 {
    let body = json!({"messages": messages, "add_generation_prompt": false, "continue_final_message": true});
    let prompt = house.post("/apply-template", &body).ok()["prompt"].clone();
    house.post("/tokenize", &json!({"content": prompt})).ok()["tokens"].as_array().unwrap().len() as u64
}

/// Of the second turn only the answer, the new question and the marks between them are read, whatever the caches of a model can do:
/// keep everything, keep a window that has moved on, keep a state that cannot go back, or several of these.
#[test]
fn the_second_turn_reads_only_what_is_new_whatever_the_caches() {
    let kinds = ["llama", "gemma3_text", "gpt_oss", "qwen3_next", "mamba2", "falcon_h1", "lfm2"];
    for kind in kinds {
        let house = House::with(options(), loader(kind));
        // Longer than the windows of these models.
        let question = json!({"role": "user", "content": "Tell me of the dog, the cat and the boat. ".repeat(8)});
        let ask = |messages: &[Value]| {
            let body = json!({"messages": messages, "max_tokens": 12, "ignore_eos": true});
            house.post("/v1/chat/completions", &body).ok()
        };
        let first = ask(&[question.clone()]);
        let asked = first["usage"]["prompt_tokens"].as_u64().unwrap();
        let answer = first["choices"][0]["message"]["content"].clone();
        let next = [
            question.clone(),
            json!({"role": "assistant", "content": answer}),
            json!({"role": "user", "content": "And?"}),
        ];
        let second = ask(&next);
        let (total, known) = (second["usage"]["prompt_tokens"].as_u64().unwrap(), cached(&second));
        let ended = tokens(&house, &[question]);
        assert!(ended <= asked && asked < total, "{kind}: {ended}, {asked}, {total}");
        // What was asked is known at least to its end; what is read anew is what came after.
        assert!((ended..total).contains(&known), "{kind}: {known} known of {total}, where {ended} were asked before");
    }
}

#[test]
fn a_prompt_that_is_known_to_its_end_is_answered() {
    let house = House::demo();
    let ask = |fields: Value| house.chat("Tell me a story.", fields).ok();
    let first = ask(json!({"max_tokens": 10}));
    let again = ask(json!({"max_tokens": 10}));
    assert_eq!(first["choices"], again["choices"]);
    assert_eq!(cached(&again), again["usage"]["prompt_tokens"].as_u64().unwrap() - 1);
    // Also one that ends within what was generated.
    let text = first["choices"][0]["message"]["content"].as_str().unwrap();
    let prompt =
        house.post("/apply-template", &json!({"messages": [{"role": "user", "content": "Tell me a story."}]})).ok();
    let whole = format!("{}{text}", prompt["prompt"].as_str().unwrap());
    house.post("/v1/completions", &json!({"prompt": whole, "max_tokens": 4})).ok();
    house.wait(|| house.metric("mlxlm_prompt_cache_hits_total") >= 2.0, "two hits");
}

#[test]
fn penalties_know_what_was_not_read_again() {
    let (house, plain) = (House::demo(), without_cache());
    let fields = json!({"max_tokens": 12, "repetition_penalty": 1.8, "presence_penalty": 1.0});
    let expected = plain.chat("Tell me a story.", fields.clone()).ok();
    for _ in 0..2 {
        assert_eq!(house.chat("Tell me a story.", fields.clone()).ok()["choices"], expected["choices"]);
    }
}

#[test]
fn the_store_keeps_to_its_size() {
    let engine = EngineOptions { prompt_cache_size: 3, ..EngineOptions::default() };
    let house =
        House::with(ServerOptions { engine, ..options() }, Arc::new(|| Ok(Models { main: demo(), draft: None })));
    for i in 0..6 {
        house.chat(&format!("{i} is a number"), json!({"max_tokens": 2})).ok();
    }
    house.wait(|| house.metric("mlxlm_prompt_cache_sequences") == 3.0, "three sequences");
}
