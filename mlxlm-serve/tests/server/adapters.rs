//! Adapters that come and go while the model runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use mlxlm_core::nn::{Leaf, Module};
use mlxlm_core::weights::save_safetensors;
use mlxlm_core::{Array, io};
use mlxlm_models::{LoadOptions, load};
use mlxlm_serve::{EngineOptions, Loader, Models, OtherModel, ServerOptions};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::house::{House, NAME, demo, options};

/// Numbers between -1 and 1 that depend on nothing but the seed.
fn numbers(seed: &mut u64, shape: [i32; 2], scale: f32) -> Array {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let numbers: Vec<f32> = (0..shape[0] * shape[1]).map(|_| next()).collect();
    Array::from_slice(&numbers, &shape)
}

/// Writes an adapter for the demo model that changes what it says.
pub fn write(folder: &Path, mut seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let parameters = json!({"rank": 4, "scale": 2.0, "dropout": 0.0});
    let config = json!({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters});
    io::write_json(folder.join("adapter_config.json"), &config).unwrap();
    let mut tensors = Vec::new();
    demo().model.walk("", &mut |path, leaf| {
        if let Leaf::Linear(leaf) = leaf {
            let shape = leaf.weight.shape();
            tensors.push((format!("{path}.lora_a"), numbers(&mut seed, [shape[1], 4], 0.3)));
            tensors.push((format!("{path}.lora_b"), numbers(&mut seed, [4, shape[0]], 0.3)));
        }
    });
    save_safetensors(folder.join("adapters.safetensors"), &tensors, &BTreeMap::new()).unwrap();
}

/// A server that may use the adapters of a folder.
fn house(root: &Path) -> House {
    let options = ServerOptions { adapter_roots: vec![root.to_owned()], ..options() };
    House::with(options, Arc::new(|| Ok(Models { main: demo(), draft: None })))
}

/// A server that was started with an adapter.
fn fixed(folder: &Path) -> House {
    let adapter_path = Some(folder.to_owned());
    let loader: Loader = Arc::new(move || {
        let folder = mlxlm_models::demo::folder("demo").unwrap().unwrap();
        let options = LoadOptions { adapter_path: adapter_path.clone(), ..LoadOptions::default() };
        Ok(Models { main: load(folder, &options).unwrap(), draft: None })
    });
    let engine = EngineOptions { prompt_cache_size: 0, ..EngineOptions::default() };
    House::with(ServerOptions { engine, ..options() }, loader)
}

fn fields(adapter: Option<&str>) -> Value {
    json!({"adapters": adapter, "max_tokens": 16, "ignore_eos": true})
}

const QUESTION: &str = "Tell me a story about a dog.";

fn text(answer: &Answer) -> String {
    answer.ok()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn each_request_has_the_adapter_that_it_asks_for() {
    let root = tempfile::tempdir().unwrap();
    for (name, seed) in [("one", 1), ("two", 2)] {
        write(&root.path().join(name), seed);
    }
    let house = house(root.path());
    let base = text(&House::demo().chat(QUESTION, fields(None)));
    let expected: Vec<(Option<&str>, String)> = [Some("one"), Some("two"), None]
        .into_iter()
        .map(|name| {
            let alone = name.map_or_else(
                || base.clone(),
                |name| text(&fixed(&root.path().join(name)).chat(QUESTION, fields(None))),
            );
            (name, alone)
        })
        .collect();
    assert!(expected[0].1 != expected[1].1 && expected[0].1 != base && expected[1].1 != base, "{expected:?}");
    // One after the other, then all at once; what is kept of prompts is kept for each adapter.
    for (name, alone) in expected.iter().chain(&expected) {
        assert_eq!(text(&house.chat(QUESTION, fields(*name))), *alone, "{name:?}");
    }
    let house = Arc::new(house);
    let expected = Arc::new(expected);
    let threads: Vec<_> = (0..9)
        .map(|i| {
            let (house, expected) = (Arc::clone(&house), Arc::clone(&expected));
            thread::spawn(move || {
                let (name, alone) = &expected[i % 3];
                assert_eq!(text(&house.chat(QUESTION, fields(*name))), *alone, "{name:?}");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // By the model's name.
    let body = json!({"model": format!("{NAME}:two"), "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16, "ignore_eos": true});
    let answer = house.post("/v1/chat/completions", &body);
    assert_eq!(text(&answer), expected[1].1);
    assert_eq!(answer.json()["model"], format!("{NAME}:two"));
}

#[test]
fn adapters_are_listed_loaded_and_forgotten() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("one"), 1);
    let house = house(root.path());
    assert_eq!(house.get("/v1/adapters").ok()["data"], json!([]));
    let loaded = house.post("/v1/adapters", &json!({"path": "one", "name": "uno"})).ok();
    assert!(loaded["id"] == "uno" && loaded["bytes"].as_u64().unwrap() > 1000, "{loaded}");
    assert_eq!(house.get("/v1/adapters").ok()["data"][0], loaded);
    let models = house.get("/v1/models").ok();
    assert!(models["data"].as_array().unwrap().iter().any(|model| model["id"] == format!("{NAME}:uno")), "{models}");
    let one = text(&house.chat(QUESTION, fields(Some("one"))));
    assert_eq!(text(&house.chat(QUESTION, fields(Some("uno")))), one);
    assert_eq!(house.ask("DELETE", "/v1/adapters/uno", &[], b"").ok()["deleted"], true);
    house.ask("DELETE", "/v1/adapters/uno", &[], b"").refused(404);
    house.chat(QUESTION, fields(Some("uno"))).refused(404);
}

/// The labels of `vllm:lora_requests_info`.
fn labels(house: &House) -> [String; 3] {
    let page = house.get("/metrics").body;
    let line = page.lines().find(|line| line.starts_with("vllm:lora_requests_info{")).unwrap();
    ["max_lora", "running_lora_adapters", "waiting_lora_adapters"].map(|label| {
        let (_, rest) = line.split_once(&format!("{label}=\"")).unwrap_or_else(|| panic!("{line}"));
        rest.split('"').next().unwrap().to_owned()
    })
}

#[test]
fn routers_see_the_adapters_that_run_and_wait() {
    let root = tempfile::tempdir().unwrap();
    for (name, seed) in [("one", 1), ("two", 2)] {
        write(&root.path().join(name), seed);
    }
    let engine = EngineOptions { decode_concurrency: 1, ..EngineOptions::default() };
    let options = ServerOptions { adapter_roots: vec![root.path().to_owned()], engine, ..options() };
    let house = House::with(options, Arc::new(|| Ok(Models { main: demo(), draft: None })));
    assert_eq!(labels(&house), ["64", "", ""]);
    let ask = |adapter: &str| {
        let body =
            json!({"prompt": "Once", "adapters": adapter, "max_tokens": 900, "ignore_eos": true, "stream": true});
        let mut client = house.client();
        client.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
        client
    };
    let mut first = ask("one");
    first.head();
    first.piece();
    house.wait(|| labels(&house) == ["64", "demo:one", ""], "the first to run");
    let (second, third) = (ask("two"), ask("one"));
    house.wait(|| labels(&house) == ["64", "demo:one", "demo:one,demo:two"], "the others to wait");
    drop((first, third));
    house.wait(|| labels(&house) == ["64", "demo:two", ""], "the second to run");
    drop(second);
    house.wait(|| labels(&house) == ["64", "", ""], "nobody to have an adapter");
    assert_eq!(labels(&House::demo()), ["0", "", ""]);
}

#[test]
fn every_model_has_adapters_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("one"), 1);
    let second = OtherModel {
        names: vec!["org/second".into()],
        loader: Arc::new(|| Ok(Models { main: demo(), draft: None })),
        bytes: 1,
    };
    let options = ServerOptions { adapter_roots: vec![root.path().to_owned()], models: vec![second], ..options() };
    let house = House::with(options, Arc::new(|| Ok(Models { main: demo(), draft: None })));
    let with = |model: &str, adapter: Option<&str>| {
        let messages = json!([{"role": "user", "content": QUESTION}]);
        let body =
            json!({"model": model, "messages": messages, "adapters": adapter, "max_tokens": 16, "ignore_eos": true});
        house.post("/v1/chat/completions", &body)
    };
    let loaded = house.post("/v1/adapters", &json!({"model": "org/second", "path": "one", "name": "uno"})).ok();
    assert_eq!((&loaded["id"], &loaded["model"]), (&json!("uno"), &json!("org/second")));
    assert_eq!(house.get("/v1/adapters").ok()["data"], json!([loaded]));
    let adapted = text(&with("org/second:uno", None));
    assert_ne!(adapted, text(&with("org/second", None)));
    assert_eq!(adapted, text(&with(NAME, Some("one"))));
    // The first model does not know that name.
    with(NAME, Some("uno")).refused(404);
    let of = house.get("/v1/adapters").ok();
    let models: Vec<&Value> = of["data"].as_array().unwrap().iter().map(|own| &own["model"]).collect();
    assert_eq!(models, [NAME, "org/second"]);
    house.ask("DELETE", "/v1/adapters/uno", &[], b"").refused(404);
    house.ask("DELETE", "/v1/adapters/org/second:uno", &[], b"").ok();
    house.ask("DELETE", "/v1/adapters/org/second:uno", &[], b"").refused(404);
    house.ask("DELETE", &format!("/v1/adapters/{NAME}:one"), &[], b"").ok();
    assert_eq!(house.get("/v1/adapters").ok()["data"], json!([]));
    let wrong = json!({"model": "third", "path": "one"});
    assert!(house.post("/v1/adapters", &wrong).refused(404).contains("`org/second`"));
}

#[test]
fn what_is_no_adapter_of_this_model_is_refused() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&outside.path().join("other"), 1);
    write(&root.path().join("broken"), 1);
    std::fs::write(root.path().join("broken/adapters.safetensors"), b"nothing").unwrap();
    write(&root.path().join("strange"), 1);
    let tensors = [("model.nothing.lora_a".to_owned(), Array::from_slice(&[1.0_f32; 8], &[2, 4]))];
    save_safetensors(root.path().join("strange/adapters.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::create_dir(root.path().join("empty")).unwrap();
    let house = house(root.path());
    let load = |path: &str| house.post("/v1/adapters", &json!({"path": path}));
    for path in ["nothing", "..", "/etc", outside.path().join("other").to_str().unwrap(), ""] {
        load(path).refused(404);
        house.chat("hi", fields(Some(path))).refused(404);
    }
    for path in ["broken", "empty"] {
        load(path).refused(400);
    }
    assert!(load("strange").refused(400).contains("model.nothing.lora_a"));
    load("one:two").refused(404);
    // A server without such folders has none.
    House::demo().chat("hi", fields(Some("one"))).refused(400);
    house.chat("hi", json!({"max_tokens": 2})).ok();
}
