//! Several models within a budget of memory, which come when they are asked for and go when nobody needs them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mlxlm_serve::{EngineOptions, Finder, Loader, OtherModel, ServerOptions};
use serde_json::{Value, json};

use crate::counter::counter;
use crate::house::{House, options};

/// A model that counts how often it is loaded.
fn other(name: &str, bytes: u64) -> (OtherModel, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let (own, seen) = (counter(Duration::ZERO), Arc::clone(&loads));
    let loader: Loader = Arc::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
        own()
    });
    (OtherModel { names: vec![name.to_owned()], loader, bytes }, loads)
}

fn house(models: Vec<OtherModel>, budget: u64, change: impl FnOnce(&mut ServerOptions)) -> House {
    let mut options = ServerOptions { models, model_bytes: 10, memory_budget: Some(budget), ..options() };
    change(&mut options);
    House::with(options, counter(Duration::ZERO))
}

fn ask(house: &House, model: &str) -> crate::client::Answer {
    house.post("/v1/completions", &json!({"model": model, "prompt": "w20", "max_tokens": 3}))
}

fn status(house: &House, model: &str) -> Value {
    house.get(&format!("/v1/models/{model}")).ok()["status"].clone()
}

#[test]
fn models_come_when_they_are_asked_for_and_make_room_for_each_other() {
    let ((a, a_loads), (b, b_loads), (large, _)) = (other("a", 40), other("b", 40), other("large", 400));
    let house = house(vec![a, b, large], 60, |_| {});
    assert_eq!(status(&house, "a"), "unloaded");
    let text = ask(&house, "a").ok();
    assert_eq!((&text["model"], &text["choices"][0]["text"]), (&json!("a"), &json!("w21 w22 w23")), "{text}");
    assert_eq!(status(&house, "a"), "ready");
    // Both do not fit.
    ask(&house, "b").ok();
    assert_eq!((status(&house, "a"), status(&house, "b")), (json!("asleep"), json!("ready")));
    ask(&house, "a").ok();
    assert_eq!((a_loads.load(Ordering::SeqCst), b_loads.load(Ordering::SeqCst)), (2, 1));
    // What does not fit at all is refused, and nobody goes for it.
    assert!(ask(&house, "large").refused(507).contains("large"));
    assert_eq!(status(&house, "a"), "ready");
    ask(&house, "nothing").refused(404);
    ask(&house, "demo").ok();
}

#[test]
fn models_are_loaded_and_unloaded_by_name() {
    let (a, loads) = other("a", 40);
    let house = house(vec![a], 60, |_| {});
    let load = |model: &str| house.post("/v1/models/load", &json!({"model": model}));
    assert_eq!(load("a").ok()["status"], "ready");
    ask(&house, "a").ok();
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    let unloaded = house.post("/v1/models/unload", &json!({"model": "a"})).ok();
    assert_eq!((&unloaded["status"], &unloaded["unloaded"]), (&json!("asleep"), &json!(true)));
    assert_eq!(house.post("/v1/models/unload", &json!({"model": "a"})).ok()["unloaded"], false);
    load("b").refused(404);
    house.post("/v1/models/load", &json!({})).refused(400);
    // The first one too, and it comes back.
    assert_eq!(house.post("/v1/models/unload", &json!({"model": "demo"})).ok()["unloaded"], true);
    ask(&house, "demo").ok();
}

#[test]
fn two_are_loaded_at_once_and_each_once() {
    let slow = |name: &str| {
        let (model, loads) = other(name, 10);
        let own = Arc::clone(&model.loader);
        let loader: Loader = Arc::new(move || {
            thread::sleep(Duration::from_millis(600));
            own()
        });
        (OtherModel { loader, ..model }, loads)
    };
    let ((a, a_loads), (b, b_loads)) = (slow("a"), slow("b"));
    let house = Arc::new(house(vec![a, b], 100, |_| {}));
    let threads: Vec<_> = ["a", "b", "a", "b", "a"]
        .into_iter()
        .map(|name| {
            let house = Arc::clone(&house);
            thread::spawn(move || ask(&house, name).ok())
        })
        .collect();
    house.wait(
        || status(&house, "a") == "loading" && status(&house, "b") == "loading",
        "both models to be loading at once",
    );
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    assert_eq!((a_loads.load(Ordering::SeqCst), b_loads.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn a_model_that_cannot_be_loaded_is_tried_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let (seen, own) = (Arc::clone(&tries), counter(Duration::ZERO));
    let loader: Loader = Arc::new(move || match seen.fetch_add(1, Ordering::SeqCst) {
        0 => Err("the folder is empty".to_owned()),
        _ => own(),
    });
    let house = house(vec![OtherModel { names: vec!["a".into()], loader, bytes: 1 }], 100, |_| {});
    assert!(ask(&house, "a").refused(500).contains("the folder is empty"));
    ask(&house, "a").ok();
    assert_eq!(house.get("/health").status, 200);
}

#[test]
fn a_model_without_work_leaves_and_health_does_not_wake_it() {
    let patience = Duration::from_millis(200);
    let house = house(Vec::new(), 100, |options| {
        options.engine = EngineOptions { idle_unload: Some(patience), ..EngineOptions::default() };
    });
    ask(&house, "demo").ok();
    house.wait(|| status(&house, "demo") == "asleep", "the model to leave");
    for _ in 0..5 {
        let health = house.get("/health").ok();
        assert_eq!((&health["status"], &health["engine"]), (&json!("ok"), &json!("asleep")));
        assert_eq!(house.get("/ready").status, 200);
        house.get("/metrics");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(&house, "demo"), "asleep");
    assert_eq!(ask(&house, "demo").ok()["choices"][0]["text"], "w21 w22 w23");
}

#[test]
fn names_are_looked_for_where_that_is_allowed_and_nowhere_else() {
    let house = house(Vec::new(), 100, |options| {
        options.finder = Some(Finder::new(|name| (name == "found").then(|| other("found", 5).0)));
    });
    ask(&house, "found").ok();
    assert_eq!(status(&house, "found"), "ready");
    for name in ["../found", "/etc", "found/../x", "org/repo", ""] {
        assert!(matches!(ask(&house, name).status, 404 | 400), "{name}");
    }
}

#[test]
fn every_model_has_an_engine_of_its_own() {
    // One that breaks down takes nobody with it.
    let (a, _) = other("a", 10);
    let house = house(vec![a], 100, |_| {});
    let panic = json!({"model": "a", "prompt": "w58", "max_tokens": 5});
    assert!(house.post("/v1/completions", &panic).status >= 500);
    ask(&house, "demo").ok();
    house.wait(|| ask(&house, "a").status == 200, "the other to be back");
}

#[test]
fn metrics_and_health_speak_of_every_model_that_was_loaded() {
    let ((a, _), (quoted, _)) = (other("a", 10), other("with \"quotes\"", 10));
    let house = house(vec![a, quoted], 100, |_| {});
    let series = |model: &str| {
        let line = format!("mlxlm_generated_tokens_total{{model_name=\"{model}\"}} ");
        let page = house.get("/metrics").body;
        page.lines().find_map(|own| own.strip_prefix(&line)?.parse::<u64>().ok())
    };
    assert_eq!((series("demo"), series("a")), (Some(0), None));
    for (model, times) in [("a", 2), ("with \"quotes\"", 1), ("demo", 1)] {
        (0..times).for_each(|_| drop(ask(&house, model).ok()));
    }
    let known = || [series("demo"), series("a"), series(r#"with \"quotes\""#)];
    house.wait(|| known() == [Some(3), Some(6), Some(3)], "all tokens to be counted");
    let health = house.get("/health").ok();
    let models = health["models"].as_object().unwrap();
    assert_eq!(models.keys().collect::<Vec<_>>(), ["demo", "a", "with \"quotes\""]);
    assert!(models.values().all(|model| model["engine"] == "ready" && model["requests"] == 0), "{health}");
    house.post("/v1/models/unload", &json!({"model": "a"})).ok();
    assert_eq!(house.get("/health").ok()["models"]["a"]["engine"], "asleep");
}
