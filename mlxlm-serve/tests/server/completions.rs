//! `/v1/completions`, and the routes about tokens.

use serde_json::{Value, json};

use crate::house::House;

const PROMPT: &str = "Once upon a time";

#[test]
fn prompts_come_as_text_as_tokens_and_several_at_once() {
    let house = House::demo();
    let complete = |prompt: Value| house.post("/v1/completions", &json!({"prompt": prompt, "max_tokens": 8})).ok();
    let text = complete(json!(PROMPT));
    assert_eq!((&text["object"], &text["model"]), (&json!("text_completion"), &json!("default_model")));
    let ids = house.post("/tokenize", &json!({"content": PROMPT, "add_special": true})).ok()["tokens"].clone();
    let tokens = complete(ids.clone());
    assert_eq!(tokens["choices"][0]["text"], text["choices"][0]["text"]);
    let several = complete(json!([PROMPT, "The dog", PROMPT]));
    let texts: Vec<&Value> = several["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts[0], &text["choices"][0]["text"]);
    assert_eq!(texts[1], &complete(json!("The dog"))["choices"][0]["text"]);
    assert_eq!(texts[2], texts[0]);
    let lists = complete(json!([ids, ids]));
    assert_eq!(lists["choices"][1]["text"], text["choices"][0]["text"]);
    let prompt_tokens = ids.as_array().unwrap().len() * 2;
    assert_eq!(lists["usage"]["prompt_tokens"], prompt_tokens);
}

#[test]
fn an_echo_has_the_log_probabilities_of_the_prompt() {
    let house = House::demo();
    let body = json!({"prompt": PROMPT, "echo": true, "logprobs": 2, "max_tokens": 0});
    let answer = house.post("/v1/completions", &body).ok();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(PROMPT), &json!("length")));
    let logprobs = &choice["logprobs"];
    let (tokens, numbers) = (logprobs["tokens"].as_array().unwrap(), logprobs["token_logprobs"].as_array().unwrap());
    assert!(numbers[0].is_null() && numbers[1..].iter().all(|number| number.as_f64().unwrap() <= 0.0));
    assert_eq!(logprobs["top_logprobs"][1].as_object().unwrap().len(), 2);
    // What the model itself goes on with has the same number when it is given.
    let body = json!({"prompt": PROMPT, "logprobs": 0, "max_tokens": 3});
    let generated = house.post("/v1/completions", &body).ok()["choices"][0].clone();
    let ids = house.post("/tokenize", &json!({"content": PROMPT, "add_special": true})).ok()["tokens"].clone();
    let text = generated["text"].as_str().unwrap();
    let whole = json!({"prompt": format!("{PROMPT}{text}"), "echo": true, "logprobs": 1, "max_tokens": 0});
    let given = house.post("/v1/completions", &whole).ok()["choices"][0]["logprobs"]["token_logprobs"].clone();
    for (i, number) in generated["logprobs"]["token_logprobs"].as_array().unwrap().iter().enumerate() {
        let other = given[ids.as_array().unwrap().len() + i].as_f64().unwrap();
        assert!((number.as_f64().unwrap() - other).abs() < 1e-3, "{number} {other}");
    }
    assert_eq!(tokens.len(), ids.as_array().unwrap().len());
    let echoed = house.post("/v1/completions", &json!({"prompt": PROMPT, "echo": true, "max_tokens": 3})).ok();
    assert_eq!(echoed["choices"][0]["text"], format!("{PROMPT}{text}"));
    let scored = json!({"prompt": PROMPT, "echo": true, "logprobs": 0, "max_tokens": 3});
    assert_eq!(house.post("/v1/completions", &scored).ok()["choices"][0]["text"], format!("{PROMPT}{text}"));
}

#[test]
fn a_stream_has_the_same_text() {
    let house = House::demo();
    let body = json!({"prompt": [PROMPT, "The dog"], "max_tokens": 8, "n": 2});
    let whole = house.post("/v1/completions", &body).ok();
    let mut streamed = body;
    streamed["stream"] = true.into();
    let (events, is_done) = house.post("/v1/completions", &streamed).events();
    assert!(is_done);
    for choice in whole["choices"].as_array().unwrap() {
        let own = events.iter().map(|event| &event["choices"][0]).filter(|own| own["index"] == choice["index"]);
        let text: String = own.clone().map(|own| own["text"].as_str().unwrap()).collect();
        assert_eq!(text, choice["text"].as_str().unwrap());
        assert_eq!(own.filter(|own| own["finish_reason"] == "length").count(), 1);
    }
}

#[test]
fn text_becomes_tokens_and_text_again() {
    let house = House::demo();
    let tokenized = house.post("/tokenize", &json!({"content": "Hello, wörld", "with_pieces": true})).ok();
    let ids: Vec<&Value> = tokenized["tokens"].as_array().unwrap().iter().map(|piece| &piece["id"]).collect();
    assert_eq!(tokenized["count"], ids.len());
    let text = house.post("/v1/detokenize", &json!({"tokens": ids})).ok();
    assert_eq!(text["content"], "Hello, wörld");
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let rendered = house.post("/apply-template", &chat).ok()["prompt"].clone();
    assert_eq!(rendered, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(
        house.post("/tokenize", &chat).ok()["count"],
        house.post("/tokenize", &json!({"content": rendered})).ok()["count"]
    );
}

#[test]
fn embeddings_are_one_long_and_tell_texts_apart() {
    let house = House::demo();
    let embed = |input: Value| house.post("/v1/embeddings", &json!({"model": "demo", "input": input})).ok();
    let answer = embed(json!(["a dog", "a cat", "a dog"]));
    let vectors: Vec<Vec<f64>> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect())
        .collect();
    for vector in &vectors {
        assert_eq!(vector.len(), 256);
        assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    let body = json!({"input": "a dog", "encoding_format": "base64"});
    let text = house.post("/v1/embeddings", &body).ok()["data"][0]["embedding"].as_str().unwrap().len();
    assert_eq!(text, (256 * 4_usize).div_ceil(3) * 4);
}
