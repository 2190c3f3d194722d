//! Many clients at once.

use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::house::House;

/// What client `i` asks, and how.
fn fields(i: usize) -> Value {
    match i % 4 {
        0 => json!({"max_tokens": 10 + i}),
        1 => json!({"max_tokens": 10 + i, "stream": true}),
        2 => json!({"max_tokens": 10 + i, "temperature": 0.8, "seed": i}),
        _ => json!({"max_tokens": 10 + i, "logprobs": true, "frequency_penalty": 0.5}),
    }
}

/// What it hears.
fn text(house: &House, i: usize) -> String {
    let question = format!("Tell me a story about {i} dogs{}", " and a cat".repeat(i % 5));
    let answer = house.chat(&question, fields(i));
    if i % 4 == 1 {
        let (events, is_done) = answer.events();
        assert!(is_done);
        let deltas = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
        return deltas.collect();
    }
    answer.ok()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn sixteen_clients_hear_what_each_would_hear_alone() {
    let house = Arc::new(House::demo());
    let threads: Vec<_> = (0..16)
        .map(|i| {
            let house = Arc::clone(&house);
            thread::spawn(move || text(&house, i))
        })
        .collect();
    let together: Vec<String> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    for (i, together) in together.iter().enumerate() {
        assert_eq!(*together, text(&house, i), "client {i}");
    }
    // What is kept of the last one is put away after its answer.
    for name in ["mlxlm_requests_inside", "vllm:num_requests_running"] {
        house.wait(|| house.metric(name) == 0.0, name);
    }
}

#[test]
fn idle_connections_are_in_nobodys_way() {
    let house = House::demo();
    let mut idle: Vec<_> = (0..200).map(|_| house.client()).collect();
    house.chat("hi", json!({"max_tokens": 4})).ok();
    for client in &mut idle {
        client.request("GET", "/health", &[], b"");
    }
    for client in &mut idle {
        assert_eq!(client.answer().status, 200);
        // The connection is used again.
        client.request("GET", "/ready", &[], b"");
    }
    assert!(idle.iter_mut().all(|client| client.answer().status == 200));
}

/// The memory of this process, in bytes; only Linux says so.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// How many connections fit beside those of other tests: both ends of them are files of this process.
fn room() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(1024);
    (files.saturating_sub(700) / 2).min(1000)
}

#[test]
fn a_thousand_idle_connections_and_64_active_ones_lose_nothing() {
    use mlxlm_serve::{Limits, ServerOptions};
    // Who connects and says nothing is let go after half a minute otherwise.
    let limits = Limits { head_time: std::time::Duration::from_mins(10), ..Limits::default() };
    let options = ServerOptions { limits, ..crate::house::options() };
    let house = Arc::new(House::with(options, crate::counter::counter(std::time::Duration::ZERO)));
    let mut idle: Vec<_> = (0..room()).map(|_| house.client()).collect();
    let round = || {
        let threads: Vec<_> = (0..64)
            .map(|i| {
                let house = Arc::clone(&house);
                thread::spawn(move || {
                    let mut client = house.client();
                    for n in 0..4 {
                        // Numbers that end before the one that ends a text.
                        let body = json!({"prompt": format!("w{}", 10 + (i + n) % 20), "max_tokens": 8});
                        client.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
                        let answer = client.answer().ok();
                        assert_eq!(answer["usage"]["completion_tokens"], 8, "{answer}");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    round();
    let before = memory();
    (0..3).for_each(|_| round());
    if let (Some(before), Some(after)) = (before, memory()) {
        // Other tests run in this process too.
        assert!(after < before + (256 << 20), "{before} bytes became {after}");
    }
    for client in &mut idle {
        client.request("GET", "/health", &[], b"");
    }
    assert!(idle.iter_mut().all(|client| client.answer().status == 200));
    house.wait(|| house.metric("mlxlm_requests_inside") == 0.0, "all to be done");
}

#[test]
fn who_has_priority_comes_first() {
    use mlxlm_serve::{EngineOptions, ServerOptions};
    let engine = EngineOptions { decode_concurrency: 1, ..EngineOptions::default() };
    let options = ServerOptions { engine, ..crate::house::options() };
    let pace = std::time::Duration::from_millis(20);
    let house = Arc::new(House::with(options, crate::counter::counter(pace)));
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let ask = |priority: i64| {
        let (house, order) = (Arc::clone(&house), Arc::clone(&order));
        thread::spawn(move || {
            let body = json!({"prompt": "w10", "max_tokens": 30, "priority": priority});
            house.post("/v1/completions", &body).ok();
            order.lock().unwrap().push(priority);
        })
    };
    let mut threads = Vec::new();
    for (n, priority) in [0, 5, -5, 1].into_iter().enumerate() {
        threads.push(ask(priority));
        house.wait(|| house.metric("mlxlm_requests_inside") >= (n + 1) as f64, "the request to be there");
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*order.lock().unwrap(), [0, -5, 1, 5]);
    let refused = house.post("/v1/completions", &json!({"prompt": "w20", "priority": "high"}));
    assert!(refused.refused(400).contains("priority"));
}

#[test]
fn a_connection_is_kept_between_requests_and_not_within_a_head() {
    use std::time::Duration;

    use mlxlm_serve::{Limits, ServerOptions};
    let limits =
        Limits { head_time: Duration::from_millis(300), idle_time: Duration::from_millis(1500), ..Limits::default() };
    let options = ServerOptions { limits, ..crate::house::options() };
    let house = House::with(options, crate::counter::counter(Duration::from_millis(25)));
    let pause = |milliseconds| thread::sleep(Duration::from_millis(milliseconds));
    let mut client = house.client();
    for _ in 0..2 {
        client.request("GET", "/health", &[], b"");
        client.answer().ok();
        pause(700);
    }
    // An answer may take longer than either, also one without a byte until its end.
    let body = json!({"prompt": [10], "max_tokens": 80, "ignore_eos": true, "logit_bias": {"50": -100}});
    client.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
    assert_eq!(client.answer().ok()["usage"]["completion_tokens"], 80);
    // The next head has to come at once.
    client.send(b"GET /health HT");
    pause(700);
    assert!(client.is_closed());
    // And so has the first.
    let mut silent = house.client();
    pause(700);
    assert!(silent.is_closed());
    let mut idle = house.client();
    idle.request("GET", "/health", &[], b"");
    idle.answer().ok();
    pause(2500);
    assert!(idle.is_closed());
}
