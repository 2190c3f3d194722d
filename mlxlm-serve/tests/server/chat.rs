//! `/v1/chat/completions`.

use mlxlm_core::text::TemplateOptions;
use mlxlm_sample::{GenerateOptions, SamplerOptions, generate};
use serde_json::{Value, json};

use crate::house::{House, demo};

/// What the library says in one answer.
fn said(text: &str, sampler: SamplerOptions, max_tokens: usize) -> String {
    let loaded = demo();
    let template = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
    let messages = [json!({"role": "user", "content": text})];
    let prompt = loaded.tokenizer.encode_chat(&messages, &template).unwrap();
    let options = GenerateOptions { max_tokens: Some(max_tokens), sampler, ..GenerateOptions::default() };
    generate(&*loaded.model, &loaded.tokenizer, &prompt, &options).unwrap()
}

/// The text of a stream's choice, and its last reason.
fn put_together(events: &[Value], index: usize) -> (String, String) {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
    let text = choices.clone().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    let reason = choices.clone().filter_map(|choice| choice["finish_reason"].as_str()).collect();
    (text, reason)
}

#[test]
fn an_answer_is_that_of_generate() {
    let house = House::demo();
    for text in ["What is the capital of France?", "Tell me a story."] {
        let answer = house.chat(text, json!({"max_tokens": 40})).ok();
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["content"], said(text, SamplerOptions::default(), 40), "{answer}");
        assert_eq!((&message["role"], &answer["object"]), (&json!("assistant"), &json!("chat.completion")));
        let usage = &answer["usage"];
        let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], sum);
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    }
    let sampler = SamplerOptions { temp: 0.9, top_p: 0.95, seed: Some(7), ..SamplerOptions::default() };
    let fields = json!({"max_tokens": 30, "temperature": 0.9, "top_p": 0.95, "seed": 7});
    let drawn = house.chat("Tell me a story.", fields).ok();
    assert_eq!(drawn["choices"][0]["message"]["content"], said("Tell me a story.", sampler, 30));
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let house = House::demo();
    let whole = house.chat("Tell me a story.", json!({"max_tokens": 24})).ok();
    let fields = json!({"max_tokens": 24, "stream": true, "stream_options": {"include_usage": true}});
    let (mut events, is_done) = house.chat("Tell me a story.", fields).events();
    assert!(is_done);
    let usage = events.pop().unwrap();
    assert_eq!((usage["choices"].clone(), &usage["usage"]["completion_tokens"]), (json!([]), &json!(24)));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == usage["id"]));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let (text, reason) = put_together(&events, 0);
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(reason, "length");
    assert!(events.len() > 10, "{events:?}");
}

#[test]
fn stop_strings_end_a_text_wherever_its_tokens_are_cut() {
    let house = House::demo();
    let whole = said("Tell me a story.", SamplerOptions::default(), 40);
    // Letters that do not begin where a token does.
    let at = whole.char_indices().nth(whole.chars().count() / 2).unwrap().0;
    let stop = &whole[at..whole.char_indices().nth(whole.chars().count() / 2 + 5).unwrap().0];
    let expected = &whole[..whole.find(stop).unwrap()];
    for fields in [json!({"stop": stop}), json!({"stop": ["never in it", stop], "stream": true})] {
        let mut fields = fields;
        fields["max_tokens"] = 40.into();
        let answer = house.chat("Tell me a story.", fields.clone());
        let (text, reason) = match fields["stream"].as_bool() {
            Some(true) => put_together(&answer.events().0, 0),
            _ => {
                let choice = &answer.ok()["choices"][0];
                let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
                (text, choice["finish_reason"].as_str().unwrap().to_owned())
            }
        };
        assert_eq!((text.as_str(), reason.as_str()), (expected, "stop"), "{fields}");
    }
}

#[test]
fn choices_are_as_if_asked_alone() {
    let house = House::demo();
    let fields = json!({"max_tokens": 12, "temperature": 1.0, "seed": 3, "n": 3});
    let answer = house.chat("Tell me a story.", fields.clone()).ok();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_eq!(answer["usage"]["completion_tokens"], 36);
    for (i, choice) in choices.iter().enumerate() {
        let alone = house.chat("Tell me a story.", json!({"max_tokens": 12, "temperature": 1.0, "seed": 3 + i})).ok();
        assert_eq!(choice["index"], i);
        assert_eq!(choice["message"], alone["choices"][0]["message"], "choice {i}");
    }
    let mut streamed = fields;
    streamed["stream"] = true.into();
    let (events, _) = house.chat("Tell me a story.", streamed).events();
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!(put_together(&events, i).0, choice["message"]["content"].as_str().unwrap());
    }
}

#[test]
fn log_probabilities_are_of_the_tokens_that_were_chosen() {
    let house = House::demo();
    let fields = json!({"max_tokens": 8, "logprobs": true, "top_logprobs": 3});
    let answer = house.chat("Tell me a story.", fields.clone()).ok();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 8);
    let text: String = content.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"].as_str().unwrap());
    for entry in content {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy decoding takes the best.
        assert_eq!((&top[0]["id"], &top[0]["logprob"]), (&entry["id"], &entry["logprob"]));
        let logprobs: Vec<f64> = top.iter().map(|entry| entry["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] <= 0.0, "{logprobs:?}");
        assert_eq!(entry["bytes"].as_array().unwrap().len(), entry["token"].as_str().unwrap().len());
    }
    let mut streamed = fields;
    streamed["stream"] = true.into();
    let (events, _) = house.chat("Tell me a story.", streamed).events();
    let entries: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(&entries, content);
}

#[test]
fn a_bias_forbids_a_token() {
    let house = House::demo();
    let first = |fields: Value| {
        let mut fields = fields;
        fields.as_object_mut().unwrap().extend(json!({"max_tokens": 1, "logprobs": true}).as_object().unwrap().clone());
        let answer = house.chat("Tell me a story.", fields).ok();
        answer["choices"][0]["logprobs"]["content"][0]["id"].as_u64().unwrap()
    };
    let id = first(json!({}));
    assert_ne!(first(json!({"logit_bias": {id.to_string(): -100}})), id);
    assert_eq!(first(json!({"logit_bias": {"17": 100}})), 17);
}

#[test]
fn an_answer_that_was_begun_is_gone_on_with() {
    let house = House::demo();
    let messages = json!([{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "Once upon"}]);
    let prompt = |fields: Value| {
        let mut body = json!({"messages": messages});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        house.post("/apply-template", &body).ok()["prompt"].as_str().unwrap().to_owned()
    };
    assert!(prompt(json!({"continue_final_message": true})).ends_with("Once upon"));
    assert!(prompt(json!({})).ends_with("<|im_start|>assistant\n"));
}
