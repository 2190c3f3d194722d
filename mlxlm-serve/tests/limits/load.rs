//! Idle connections and busy ones together, for a while: nothing is lost, and memory stays where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::house::House;

/// Connections that ask nothing but now and then whether the server is there.
const IDLE: usize = 200;

/// Clients that ask one thing after the other.
const ACTIVE: usize = 16;

/// What memory may grow by after the first third of the time, by when all buffers were used.
const GROWTH_BYTES: u64 = 48 << 20;

/// How long, in seconds; `MLXLM_LOAD_S` is for a longer test.
fn seconds() -> u64 {
    std::env::var("MLXLM_LOAD_S").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// A request of client `client`; every third one goes away in the middle.
fn ask(house: &House, client: usize, n: usize) -> usize {
    let tokens = 8 + (client + n) % 24;
    let stream = n % 2 == 0;
    let question = format!("Tell me a story about {} dogs.", (client * 7 + n) % 40);
    let body = json!({
        "model": crate::house::NAME, "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens, "ignore_eos": true, "stream": stream, "stream_options": stream.then(|| json!({"include_usage": true})),
    });
    let mut own = house.client();
    own.request("POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
    if stream && n % 3 == 0 {
        assert_eq!(own.head().status, 200);
        own.piece();
        return 0;
    }
    let answer = own.answer();
    let usage = if stream {
        let (events, is_done) = answer.events();
        assert!(is_done, "a stream ended early: {answer:?}");
        events.last().unwrap()["usage"].clone()
    } else {
        answer.ok()["usage"].clone()
    };
    assert_eq!(usage["completion_tokens"], tokens as u64, "{usage}");
    tokens
}

/// Asks on every idle connection, which was kept all the time.
fn knock(idle: &mut [Client]) {
    for client in &mut *idle {
        client.request("GET", "/health", &[], b"");
    }
    for client in idle {
        assert_eq!(client.answer().ok()["status"], "ok");
    }
}

#[test]
fn nothing_is_lost_under_load_and_memory_stays_flat() {
    let _turn = crate::turn();
    let house = Arc::new(House::demo());
    let mut idle: Vec<Client> = (0..IDLE).map(|_| house.client()).collect();
    knock(&mut idle);
    let (begin, time) = (Instant::now(), Duration::from_secs(seconds()));
    let tokens = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..ACTIVE)
        .map(|client| {
            let (house, tokens) = (Arc::clone(&house), Arc::clone(&tokens));
            thread::spawn(move || {
                let mut asked = 0;
                while begin.elapsed() < time {
                    tokens.fetch_add(ask(&house, client, asked), Ordering::Relaxed);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let mut seen = Vec::new();
    while begin.elapsed() < time {
        thread::sleep(Duration::from_millis(250));
        seen.extend(crate::resident_bytes().map(|bytes| (begin.elapsed(), bytes)));
    }
    let asked: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    knock(&mut idle);
    drop(idle);
    house.wait(|| house.metric("mlxlm_requests_inside") == 0.0, "nobody to be inside");
    house.wait(|| house.get("/health").ok()["step_s"] == Value::Null, "the engine to rest");
    assert_eq!(house.metric("mlxlm_requests_failed_total"), 0.0);
    let tokens = tokens.load(Ordering::Relaxed);
    assert!(asked > 4 * ACTIVE && tokens > 0, "{asked} requests and {tokens} tokens in {time:?}");
    let (early, late): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(at, _)| *at < time / 3);
    let most = |part: &[(Duration, u64)]| part.iter().map(|(_, bytes)| *bytes).max();
    if let (Some(early), Some(late)) = (most(&early), most(&late)) {
        let grown = late.saturating_sub(early);
        assert!(grown < GROWTH_BYTES, "memory grew by {grown} bytes, from {early} to {late}, over {asked} requests");
    }
}
