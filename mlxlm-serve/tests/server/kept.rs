//! Prompts that were read are kept, by models of every kind of cache, in memory and on disk, and nobody can tell by the text.

use std::path::Path;
use std::sync::Arc;

use mlxlm_serve::{DiskPromptCache, EngineOptions, Level, Loader, Log, Models, ServerOptions};
use serde_json::{Value, json};

use crate::house::{House, demo, options};
use crate::models::loader;

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

fn total(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens"].as_u64().unwrap()
}

fn with(engine: EngineOptions, loader: Loader) -> House {
    // What the disk refuses is said there, and only there.
    let log = Log::new(|line| assert!(line.level < Level::Warning || !line.text.contains("kept"), "{}", line.text));
    House::with(ServerOptions { engine, log, ..options() }, loader)
}

fn plain(loader: Loader) -> House {
    with(EngineOptions { prompt_cache_size: 0, ..EngineOptions::default() }, loader)
}

fn on(folder: &Path) -> EngineOptions {
    EngineOptions {
        disk_prompt_cache: Some(DiskPromptCache { min_tokens: 8, ..DiskPromptCache::new(folder) }),
        ..EngineOptions::default()
    }
}

fn chat(house: &House, messages: &[Value]) -> Value {
    let body = json!({"messages": messages, "max_tokens": 12, "ignore_eos": true});
    house.post("/v1/chat/completions", &body).ok()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn content(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["content"]
}

/// More tokens than those by which the disk finds a sequence, 32.
const QUESTION: &str = "Tell me a long story about a dog and a cat who lived in a house on a hill, with a garden, a river and a \
    small red boat, and about the boy who came to see them every day after school with some bread and milk.";

#[test]
fn models_whose_caches_cannot_go_back_go_on_all_the_same() {
    for kind in ["qwen3_next", "gemma3_text", "mamba2", "llama"] {
        let (house, plain) = (House::with(options(), loader(kind)), plain(loader(kind)));
        let first = chat(&house, &[user(QUESTION)]);
        assert_eq!(cached(&first), 0, "{kind}");
        // The same once more.
        let again = chat(&house, &[user(QUESTION)]);
        assert_eq!(content(&again), content(&first), "{kind}");
        assert_eq!(cached(&again), total(&again) - 1, "{kind}: a prompt that is known to its end");
        // The next turn; the answer is repeated in other words, as when thinking was stripped.
        let next = [user(QUESTION), assistant("Once."), user("And then?")];
        let known = chat(&house, &next);
        assert_eq!(content(&known), content(&chat(&plain, &next)), "{kind}");
        assert!(cached(&known) + 24 >= total(&first), "{kind}: {} of {}", cached(&known), total(&first));
        assert!(cached(&known) <= total(&first), "{kind}: {} of {}", cached(&known), total(&first));
    }
}

#[test]
fn a_first_line_that_changes_is_where_prompts_part() {
    for kind in ["qwen3_next", "llama"] {
        let house = House::with(options(), loader(kind));
        let day =
            |day: &str| [json!({"role": "system", "content": format!("Today is {day}. Be kind.")}), user(QUESTION)];
        chat(&house, &day("Monday"));
        let tuesday = chat(&house, &day("Tuesday"));
        // What stands before the day at most: what comes after it has seen another day.
        assert!(cached(&tuesday) < 16, "{kind}: {}", cached(&tuesday));
        assert_eq!(content(&tuesday), content(&chat(&plain(loader(kind)), &day("Tuesday"))), "{kind}");
    }
}

#[test]
fn the_next_server_goes_on_from_the_disk() {
    for kind in ["qwen3_next", "gemma3_text", "llama"] {
        let folder = tempfile::tempdir().unwrap();
        let next = [user(QUESTION), assistant("Once."), user("And then?")];
        let house = with(on(folder.path()), loader(kind));
        let first = chat(&house, &[user(QUESTION)]);
        // Ended in order, it writes what it has not written yet.
        house.stop().unwrap();
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name.to_string_lossy().ends_with(".safetensors")), "{kind}: {names:?}");
        let house = with(on(folder.path()), loader(kind));
        let again = chat(&house, &[user(QUESTION)]);
        assert_eq!(content(&again), content(&first), "{kind}");
        assert_eq!(cached(&again), total(&again) - 1, "{kind}");
        let known = chat(&house, &next);
        assert_eq!(content(&known), content(&chat(&plain(loader(kind)), &next)), "{kind}");
        assert!(cached(&known) + 24 >= total(&first), "{kind}: {} of {}", cached(&known), total(&first));
        assert!(house.metric("mlxlm_disk_prompt_cache_hits_total") >= 1.0);
    }
}

#[test]
fn caches_of_another_model_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let house = with(on(folder.path()), loader("llama"));
    chat(&house, &[user(QUESTION)]);
    house.stop().unwrap();
    let other: Loader = Arc::new(|| Ok(Models { main: demo(), draft: None }));
    let house = with(on(folder.path()), other);
    assert_eq!(cached(&chat(&house, &[user(QUESTION)])), 0);
}

#[test]
fn what_is_kept_is_written_while_there_is_nothing_else_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let house = with(on(folder.path()), loader("llama"));
    chat(&house, &[user(QUESTION)]);
    house.wait(|| house.metric("mlxlm_disk_prompt_cache_written_total") >= 1.0, "a file");
    // Idle again, it computes nothing.
    assert_eq!(house.get("/health").ok()["step_s"], Value::Null);
}

#[test]
fn a_draft_model_and_known_prompts_go_together() {
    let draft = || -> Loader {
        Arc::new(|| {
            let folder = mlxlm_models::demo::folder("demo-draft").unwrap().unwrap();
            let draft = mlxlm_models::load(folder, &mlxlm_models::LoadOptions::default()).unwrap();
            Ok(Models { main: demo(), draft: Some(draft) })
        })
    };
    let (house, plain) = (House::with(options(), draft()), House::demo());
    for messages in [vec![user("Tell me a story.")], vec![user("Tell me a story."), assistant("No."), user("Please.")]]
    {
        let (with, without) = (chat(&house, &messages), chat(&plain, &messages));
        assert_eq!(content(&with), content(&without));
        assert_eq!(cached(&with), cached(&without));
    }
    assert!(house.metric("mlxlm_accepted_tokens_total") > 0.0);
}

#[test]
fn several_answers_go_on_from_what_is_known() {
    for kind in ["qwen3_next", "llama"] {
        let (house, plain) = (House::with(options(), loader(kind)), plain(loader(kind)));
        chat(&house, &[user(QUESTION)]);
        let body = json!({
            "messages": [user(QUESTION)], "max_tokens": 8, "ignore_eos": true, "n": 3, "temperature": 0.9, "seed": 4,
        });
        let known = house.post("/v1/chat/completions", &body).ok();
        assert_eq!(known["choices"], plain.post("/v1/chat/completions", &body).ok()["choices"], "{kind}");
    }
}
