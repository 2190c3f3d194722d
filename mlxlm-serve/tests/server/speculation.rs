//! Whoever proposes tokens, the text is the one without: alone, in a batch, held to a schema, and cut by stop strings.

use std::sync::Arc;
use std::thread;

use mlxlm_models::{LoadOptions, Loaded, load};
use mlxlm_serve::{EngineOptions, Loader, Models, ServerOptions};
use serde_json::{Value, json};

use crate::house::{House, demo, options};
use crate::models::{random, with_head};

fn house(engine: EngineOptions, loader: Loader) -> House {
    House::with(ServerOptions { engine, ..options() }, loader)
}

fn draft() -> Loaded {
    load(mlxlm_models::demo::folder("demo-draft").unwrap().unwrap(), &LoadOptions::default()).unwrap()
}

/// Who proposes, to which model.
type Way = (&'static str, EngineOptions, fn() -> Models);

fn ways() -> Vec<Way> {
    let none = EngineOptions::default;
    vec![
        ("a draft model", none(), || Models { main: demo(), draft: Some(draft()) }),
        ("the prompt", EngineOptions { prompt_lookup_num_tokens: Some(6), ..none() }, || Models {
            main: demo(),
            draft: None,
        }),
        ("the prompt, of a hybrid", EngineOptions { prompt_lookup_num_tokens: Some(6), ..none() }, || Models {
            main: random("qwen3_next"),
            draft: None,
        }),
        ("whoever pays", EngineOptions { auto_speculative: true, ..none() }, || Models {
            main: demo(),
            draft: Some(draft()),
        }),
        ("heads", EngineOptions { mtp: Some(2), ..none() }, || Models { main: with_head("mimo"), draft: None }),
        ("heads of a hybrid", EngineOptions { mtp: Some(3), ..none() }, || Models {
            main: with_head("qwen3_next"),
            draft: None,
        }),
    ]
}

/// What is asked, by its place in the batch.
fn body(i: usize) -> Value {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 120}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}});
    let question = format!("Tell me a story about {} dogs, two cats, two dogs, two cats and two dogs.", i % 5);
    let mut body = json!({"messages": [{"role": "user", "content": question}], "max_tokens": 40, "ignore_eos": true});
    match i % 4 {
        0 => {}
        1 => {
            body["response_format"] = format;
            body["ignore_eos"] = false.into();
        }
        2 => body["stop"] = json!([" the", "e d", "two"]),
        _ => body["repetition_penalty"] = json!(1.3),
    }
    body
}

/// The text, why it ended and how many tokens it has.
fn said(house: &House, i: usize) -> (String, Value, Value) {
    let answer = house.post("/v1/chat/completions", &body(i)).ok();
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
    if i % 4 == 1 && choice["finish_reason"] == "stop" {
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(["Ann", "Bob"].contains(&value["name"].as_str().unwrap()), "{text}");
    }
    (text, choice["finish_reason"].clone(), answer["usage"]["completion_tokens"].clone())
}

/// Requests that are there at once.
const BATCH: usize = 8;

#[test]
fn who_proposes_changes_no_text() {
    for (who, engine, models) in ways() {
        let silent =
            EngineOptions { prompt_lookup_num_tokens: None, mtp: None, auto_speculative: false, ..engine.clone() };
        let plain = house(silent, Arc::new(move || Ok(Models { draft: None, ..models() })));
        let expected: Vec<_> = (0..BATCH).map(|i| said(&plain, i)).collect();
        // What a grammar leaves no choice about is proposed too.
        let forced = plain.metric("mlxlm_accepted_tokens_total");
        let house = Arc::new(house(engine, Arc::new(move || Ok(models()))));
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(said(&house, i), *expected, "{who}: request {i} alone");
        }
        let (proposed, accepted) =
            (house.metric("mlxlm_proposed_tokens_total"), house.metric("mlxlm_accepted_tokens_total"));
        assert!(accepted > forced && accepted <= proposed, "{who}: {accepted} of {proposed}, {forced} without");
        let threads: Vec<_> = (0..BATCH)
            .map(|i| {
                let house = Arc::clone(&house);
                thread::spawn(move || said(&house, i))
            })
            .collect();
        let together: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(together, expected, "{who}: together");
        // One request may do without.
        let mut without = body(0);
        without["num_draft_tokens"] = 0.into();
        let answer = house.post("/v1/chat/completions", &without).ok();
        assert_eq!(answer["choices"][0]["message"]["content"], expected[0].0, "{who}: without");
    }
}
