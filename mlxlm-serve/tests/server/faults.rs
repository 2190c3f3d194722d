//! What goes wrong inside: logits that are no numbers, an engine that breaks down, clients that go away, requests that take too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mlxlm_serve::{EngineOptions, Limits, Loader, ServerOptions};
use serde_json::json;

use crate::counter::{PANIC, POISON, counter};
use crate::house::{House, options};

/// A server whose model takes so many milliseconds for a token.
fn house(pace_ms: u64, engine: EngineOptions) -> House {
    House::with(ServerOptions { engine, ..options() }, counter(Duration::from_millis(pace_ms)))
}

#[test]
fn a_poisoned_request_ends_alone() {
    let house = Arc::new(house(1, EngineOptions::default()));
    let other = {
        let house = Arc::clone(&house);
        std::thread::spawn(move || {
            house.post("/v1/completions", &json!({"prompt": [61], "max_tokens": 60, "ignore_eos": true}))
        })
    };
    for prompt in [POISON, POISON - 3] {
        let answer = house.post("/v1/completions", &json!({"prompt": [prompt], "max_tokens": 10}));
        let message = answer.refused(500);
        assert!(message.contains("the logits are not finite"), "{message}");
        assert_eq!(answer.json()["error"]["code"], "model_failed");
    }
    let streamed = json!({"prompt": [POISON - 3], "max_tokens": 10, "stream": true});
    let (events, is_done) = house.post("/v1/completions", &streamed).events();
    assert!(!is_done && events.last().unwrap()["error"]["code"] == "model_failed", "{events:?}");
    assert_eq!(other.join().unwrap().ok()["usage"]["completion_tokens"], 60);
    let fine = house.post("/v1/completions", &json!({"prompt": [10], "max_tokens": 20})).ok();
    assert_eq!(fine["usage"]["completion_tokens"], 20);
}

#[test]
fn an_engine_that_breaks_down_is_replaced_once() {
    let house = house(0, EngineOptions::default());
    let fine = |house: &House| house.post("/v1/completions", &json!({"prompt": [1], "max_tokens": 3})).ok();
    fine(&house);
    let answer = house.post("/v1/completions", &json!({"prompt": [PANIC], "max_tokens": 3}));
    assert_eq!(answer.json()["error"]["code"], "engine_stopped", "{answer:?}");
    assert_eq!(answer.status, 503);
    house.wait_until("/ready", 200);
    fine(&house);
    house.wait(|| house.metric("mlxlm_engine_restarts_total") == 1.0, "mlxlm_engine_restarts_total to be 1");
    house.post("/v1/completions", &json!({"prompt": [PANIC], "max_tokens": 3})).refused(503);
    let error = house.ended().unwrap_err().to_string();
    assert!(error.contains("crashed again") && error.contains("on purpose"), "{error}");
}

/// Whoever streams, waits for a whole answer or waits for its turn hears of it, `/health` says so, and what comes later is answered.
#[test]
fn nobody_hangs_when_the_engine_breaks_down() {
    let engine = EngineOptions { decode_concurrency: 4, ..EngineOptions::default() };
    let (loads, fresh) = (Arc::new(AtomicUsize::new(0)), counter(Duration::from_millis(4)));
    let seen = Arc::clone(&loads);
    let loader: Loader = Arc::new(move || {
        if seen.fetch_add(1, Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(700));
        }
        fresh()
    });
    let house = House::with(ServerOptions { engine, ..options() }, loader);
    let long = json!({"prompt": [10], "max_tokens": 4000, "ignore_eos": true, "logit_bias": {"50": -100}});
    let streamed =
        json!({"prompt": [10], "max_tokens": 4000, "ignore_eos": true, "logit_bias": {"50": -100}, "stream": true});
    let short = json!({"prompt": [10], "max_tokens": 40});
    let ask = |body: &serde_json::Value| {
        let mut client = house.client();
        client.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
        client
    };
    let (mut stream, mut other, mut whole, mut soon) = (ask(&streamed), ask(&streamed), ask(&long), ask(&short));
    house.wait(|| house.metric("mlxlm_requests_running") == 4.0, "four requests to run");
    let mut panicking = ask(&json!({"prompt": [PANIC], "max_tokens": 3}));
    house.wait(|| house.metric("mlxlm_requests_waiting") == 1.0, "one to wait");
    let mut waiting = ask(&json!({"prompt": [1], "max_tokens": 3}));
    assert_eq!(soon.answer().ok()["usage"]["completion_tokens"], 40);
    for stream in [&mut stream, &mut other] {
        let (events, is_done) = stream.answer().events();
        let last = events.last().unwrap();
        assert!(!is_done && last["error"]["code"] == "engine_stopped", "{last}");
    }
    for client in [&mut whole, &mut panicking, &mut waiting] {
        let answer = client.answer();
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("engine_stopped")));
    }
    let health = house.get("/health");
    assert_eq!((health.status, health.json()["engine"].as_str()), (503, Some("restarting")));
    assert_eq!(house.get("/ready").status, 503);
    let refused = house.post("/v1/completions", &json!({"prompt": [1], "max_tokens": 3}));
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    house.wait_until("/health", 200);
    house.wait_until("/ready", 200);
    house.post("/v1/completions", &json!({"prompt": [1], "max_tokens": 3})).ok();
    assert_eq!((house.metric("mlxlm_requests_inside"), loads.load(Ordering::SeqCst)), (0.0, 2));
}

#[test]
fn a_model_that_does_not_load_ends_the_server() {
    let house = House::start(options(), Arc::new(|| Err("there is no such model".to_owned())));
    assert_eq!(house.ended().unwrap_err().to_string(), "there is no such model");
}

#[test]
fn the_server_answers_while_its_model_loads() {
    let loaded = Arc::new(std::sync::Barrier::new(2));
    let (gate, inner) = (Arc::clone(&loaded), counter(Duration::ZERO));
    let house = House::start(
        options(),
        Arc::new(move || {
            gate.wait();
            inner()
        }),
    );
    assert_eq!(house.get("/health").ok()["engine"], "loading");
    assert_eq!(house.get("/ready").status, 503);
    let answer = house.post("/v1/completions", &json!({"prompt": [1]}));
    answer.refused(503);
    assert!(answer.header("retry-after").is_some());
    loaded.wait();
    house.wait_until("/ready", 200);
}

#[test]
fn a_client_that_goes_away_is_not_worked_for() {
    let engine = EngineOptions { decode_concurrency: 1, prefill_step_size: 10, ..EngineOptions::default() };
    let house = house(5, engine);
    let long =
        json!({"prompt": [10], "max_tokens": 4000, "ignore_eos": true, "stream": true, "logit_bias": {"50": -100}});
    let prompt: Vec<u32> = (0..1000).map(|i| i % 40).collect();
    let reading = json!({"prompt": prompt, "max_tokens": 4});
    // While tokens come, while the prompt is read, and while it waits; with and without a stream.
    for phase in ["decoding", "reading", "waiting", "waiting for all of it"] {
        let first = (phase == "waiting").then(|| {
            let mut client = house.client();
            client.request("POST", "/v1/completions", &[], long.to_string().as_bytes());
            house.wait(|| house.metric("mlxlm_requests_running") == 1.0, "the first to run");
            client
        });
        let body = match phase {
            "reading" => reading.clone(),
            "waiting for all of it" => {
                let mut whole = long.clone();
                whole["stream"] = false.into();
                whole
            }
            _ => long.clone(),
        };
        let mut client = house.client();
        client.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
        let inside = 1.0 + f64::from(u8::from(first.is_some()));
        house.wait(|| house.metric("mlxlm_requests_inside") == inside, "the job to be inside");
        if phase == "decoding" {
            client.head();
            client.piece();
        }
        let cancelled = house.metric("mlxlm_requests_cancelled_total");
        drop(client);
        house.wait(|| house.metric("mlxlm_requests_cancelled_total") > cancelled, phase);
        drop(first);
        house.wait(|| house.metric("mlxlm_requests_inside") == 0.0, "nobody to be inside");
        house.wait(|| house.get("/health").ok()["step_s"].is_null(), "the engine to rest");
    }
}

#[test]
fn more_than_fit_are_told_to_come_again() {
    let engine = EngineOptions { decode_concurrency: 1, queue: 1, ..EngineOptions::default() };
    let house = house(5, engine);
    let long =
        json!({"prompt": [10], "max_tokens": 4000, "ignore_eos": true, "stream": true, "logit_bias": {"50": -100}});
    let mut clients: Vec<_> = (0..2).map(|_| house.client()).collect();
    for client in &mut clients {
        client.request("POST", "/v1/completions", &[], long.to_string().as_bytes());
    }
    house.wait(|| house.metric("mlxlm_requests_inside") == 2.0, "both to be inside");
    let answer = house.post("/v1/completions", &json!({"prompt": [1]}));
    answer.refused(429);
    assert_eq!(
        (answer.header("retry-after"), answer.json()["error"]["code"].as_str()),
        (Some("2"), Some("queue_full"))
    );
    assert_eq!(house.get("/ready").json()["status"], "full");
    house.get("/health").ok();
    assert_eq!(house.post("/v1/completions", &json!({"prompt": [1], "n": 3})).status, 400);
    drop(clients);
    house.wait(|| house.metric("mlxlm_requests_inside") == 0.0, "both to be gone");
    house.post("/v1/completions", &json!({"prompt": [1], "max_tokens": 2})).ok();
}

#[test]
fn a_request_that_takes_too_long_fails() {
    let limits = Limits { request_time: Some(Duration::from_millis(200)), ..Limits::default() };
    let house = House::with(ServerOptions { limits, ..options() }, counter(Duration::from_millis(20)));
    let begin = Instant::now();
    let answer =
        house.post("/v1/completions", &json!({"prompt": [10], "max_tokens": 1000, "logit_bias": {"50": -100}}));
    assert_eq!(answer.json()["error"]["code"], "deadline_exceeded", "{answer:?}");
    assert!(answer.status == 504 && begin.elapsed() < Duration::from_secs(10));
    house.post("/v1/completions", &json!({"prompt": [10], "max_tokens": 2})).ok();
}

#[test]
fn a_server_that_ends_finishes_what_runs() {
    let house = house(5, EngineOptions::default());
    let mut client = house.client();
    let body = json!({"prompt": [10], "max_tokens": 30, "stream": true});
    client.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
    client.head();
    let running = std::thread::spawn(move || std::iter::from_fn(|| client.piece()).collect::<String>());
    let address = house.address;
    house.stop().unwrap();
    assert!(running.join().unwrap().ends_with("data: [DONE]\n\n"));
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn silence_is_broken_while_a_prompt_is_read() {
    let house = house(1, EngineOptions { prefill_step_size: 100, ..EngineOptions::default() });
    let prompt: Vec<u32> = (0..450).map(|i| i % 40).collect();
    let body = json!({"prompt": prompt, "max_tokens": 2, "stream": true});
    let answer = house.post("/v1/completions", &body);
    for done in [100, 200, 300, 400, 450] {
        assert!(answer.body.contains(&format!(": keepalive {done}/450\n\n")), "{}", answer.body);
    }
    assert!(answer.events().1);
}
