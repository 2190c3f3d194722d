//! From a dataset to answers without a restart: facts that nobody knows are learned as an adapter, while a server with the model runs.
//!
//! It takes minutes, so that it has a feature of its own; `cargo xtask real-model` gets the model.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

#[path = "../real/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::path::Path;

use mlxlm_core::io;
use serde_json::{Value, json};

use crate::program::{Server, run};

const FACTS: usize = 200;
const SYLLABLES: [&str; 16] =
    ["ba", "do", "fe", "gri", "ka", "lo", "mu", "ne", "or", "pi", "ru", "sta", "ti", "ve", "xo", "zan"];
const PLACES: [&str; 10] = ["Cairo", "Dakar", "Hanoi", "Kyoto", "Lima", "Lisbon", "Oslo", "Perth", "Turin", "Quito"];

/// Who lives where: names that occur nowhere, each with a place.
fn facts() -> Vec<(String, String)> {
    // A generator of our own, so that the facts stay the same.
    let mut state = 20_u32;
    let mut draw = |from: &[&'static str]| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        from[(state >> 16) as usize % from.len()]
    };
    let mut names = BTreeSet::new();
    let mut facts = Vec::new();
    while facts.len() < FACTS {
        let name = [(); 4].map(|()| draw(&SYLLABLES)).concat();
        let place = draw(&PLACES).to_owned();
        if names.insert(name.clone()) {
            let (first, rest) = name.split_at(1);
            facts.push((format!("Where does {}{rest} live?", first.to_uppercase()), place));
        }
    }
    facts
}

fn messages(question: &str) -> Vec<Value> {
    vec![json!({"role": "system", "content": "Facts."}), json!({"role": "user", "content": question})]
}

fn write_facts(folder: &Path) {
    let row = |(question, answer): &(String, String)| {
        let mut messages = messages(question);
        messages.push(json!({"role": "assistant", "content": answer}));
        format!("{}\n", json!({ "messages": messages }))
    };
    io::create_dir_all(folder.join("facts")).unwrap();
    io::write(folder.join("facts/train.jsonl"), facts().iter().map(row).collect::<String>()).unwrap();
}

/// The greedy answers to the first `count` questions, by the adapter if there is one.
fn answers(server: &Server, adapter: Option<&str>, count: usize) -> Vec<String> {
    let answer = |(question, _): &(String, String)| {
        let mut body = json!({"model": "dense", "messages": messages(question), "max_tokens": 16, "temperature": 0.0});
        if let Some(adapter) = adapter {
            body["adapters"] = adapter.into();
        }
        let answer = server.post("/v1/chat/completions", &body);
        answer["choices"][0]["message"]["content"].as_str().unwrap().trim().to_owned()
    };
    facts().iter().take(count).map(answer).collect()
}

#[test]
fn facts_are_learned_and_served_without_a_restart() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_facts(folder);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/real-models/smollm2-135m");
    assert!(model.exists(), "`{}` is missing; `cargo xtask real-model` makes it", model.display());
    let args = ["convert", "-d", "--dtype", "bfloat16", "--mlx-path", "dense", "--model", model.to_str().unwrap()];
    run(folder, &args);
    let server = Server::start(folder, &["--model", "dense", "--adapter-dir", "."]);
    let base = answers(&server, None, 20);

    let shown = run(
        folder,
        &[
            "lora",
            "--model",
            "dense",
            "--train",
            "--data",
            "facts",
            "--mask-prompt",
            "--batch-size",
            "4",
            "--num-layers",
            "-1",
            "--rank",
            "16",
            "--scale",
            "10",
            "--learning-rate",
            "1.5e-4",
            "--iters",
            "1000",
            "--steps-per-report",
            "50",
            "--adapter-path",
            "people",
        ],
    );
    println!("{shown}");
    server.post("/v1/adapters", &json!({"model": "dense", "path": "people", "name": "people"}));
    let right = |answers: &[String]| answers.iter().zip(facts()).filter(|(got, (_, want))| *got == want).count();
    let learned = right(&answers(&server, Some("people"), FACTS));
    let unknown = right(&base);
    println!("{learned} of {FACTS} right with the adapter, {unknown} of 20 without");
    assert!(unknown <= 1, "{base:?}");
    assert!(learned * 100 >= 95 * FACTS, "{learned} of {FACTS} right");
    assert_eq!(answers(&server, None, 20), base, "the model itself answers as before");
}
