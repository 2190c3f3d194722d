//! What no good client sends, as one table: items 15 to 29 of the list by which servers of other projects were judged. Each row says
//! what is answered; after each the same server answers a good request, and in the end memory is where it was.
//!
//! What runs inside the engine when many meet (item 28) and formats of tools that come in pieces (item 29) have tests of their own
//! beside this table: `server/many.rs`, `server/kept.rs`, `tests/tools`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlxlm_serve::{Access, ApiKey, EngineOptions, Limits, Log, OtherModel, ServerOptions};
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::counter::counter;
use crate::house::{House, NAME, options};
use crate::rows::rows;

/// Which server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The demo model, with the limits that servers have.
    Demo,
    /// One that counts, with limits so small that they are reached.
    Strict,
    /// One with a key.
    Keyed,
    /// Several models within a budget.
    Shelf,
    /// One that takes a few milliseconds for a token, and one sequence at a time.
    Slow,
    /// One that may break down, once.
    Frail,
}

/// What is done to it.
pub enum Deed {
    /// A body is sent to a path.
    Post(&'static str, Value),
    /// Bytes are sent as the body of a chat.
    Body(Vec<u8>),
    /// Bytes are sent as they are.
    Bytes(Vec<u8>),
    /// A request with a method and headers.
    Ask(&'static str, &'static str, Vec<(&'static str, &'static str)>),
    /// More than one request; the last answer counts.
    Act(fn(&House) -> Answer),
}

/// A row of the table.
pub struct Row {
    /// The item of the list.
    pub item: u8,
    pub at: At,
    pub deed: Deed,
    pub status: u16,
    /// A part of the message, or of the answer.
    pub says: &'static str,
}

/// The key that may be logged nowhere, and a prompt likewise.
pub const KEY: &str = "sesame-for-the-bad-list";
pub const PROMPT: &str = "xyzzy-prompt";

/// What memory may grow by over the whole table: prompts that were read are kept, and buffers of a body of 32 MB may be.
const GROWTH_BYTES: u64 = 256 << 20;

struct Place {
    houses: Vec<(At, House)>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&log);
        let log_of = Log::new(move |line| hear.lock().unwrap().push(line.text.clone()));
        let base = ServerOptions { log: log_of, ..options() };
        let counting = |options: ServerOptions, pace_ms| House::with(options, counter(Duration::from_millis(pace_ms)));
        let limits = Limits {
            body_bytes: 10_000,
            head_bytes: 8192,
            head_time: Duration::from_millis(300),
            body_time: Duration::from_millis(300),
            ..Limits::default()
        };
        let one = EngineOptions { decode_concurrency: 1, prefill_step_size: 10, ..EngineOptions::default() };
        let access = Access { api_keys: vec![ApiKey::new(KEY)], ..Access::default() };
        let other = |name: &str, bytes| OtherModel { names: vec![name.into()], loader: counter(Duration::ZERO), bytes };
        let models = vec![other("a", 40), other("b", 40), other("large", 400)];
        let shelf = ServerOptions { models, model_bytes: 10, memory_budget: Some(60), ..base.clone() };
        let demo = Arc::new(|| Ok(mlxlm_serve::Models { main: crate::house::demo(), draft: None }));
        let houses = vec![
            (At::Demo, House::with(base.clone(), demo)),
            (At::Strict, counting(ServerOptions { limits, ..base.clone() }, 0)),
            (At::Keyed, counting(ServerOptions { access, ..base.clone() }, 0)),
            (At::Shelf, counting(shelf, 0)),
            (At::Slow, counting(ServerOptions { engine: one, ..base.clone() }, 3)),
            (At::Frail, counting(base, 0)),
        ];
        Self { houses, log }
    }

    fn house(&self, at: At) -> &House {
        &self.houses.iter().find(|(own, _)| *own == at).unwrap().1
    }

    /// The server of a row takes a good request.
    fn is_well(&self, at: At) -> Answer {
        let key = format!("Bearer {KEY}");
        let headers: &[(&str, &str)] = if at == At::Keyed { &[("authorization", &key)] } else { &[] };
        let house = self.house(at);
        house.wait_until("/ready", 200);
        let body = json!({"model": NAME, "prompt": [10], "max_tokens": 2});
        house.ask("POST", "/v1/completions", headers, body.to_string().as_bytes())
    }
}

fn send(house: &House, deed: &Deed) -> Answer {
    let bytes = |bytes: &[u8]| {
        let mut client = house.client();
        client.send(bytes);
        first_words(client)
    };
    match deed {
        Deed::Post(path, body) => house.post(path, body),
        Deed::Body(body) => house.ask("POST", "/v1/chat/completions", &[], body),
        Deed::Bytes(own) => bytes(own),
        Deed::Ask(method, path, headers) => house.ask(method, path, headers, b"{}"),
        Deed::Act(act) => act(house),
    }
}

/// The answer to bytes that may be no request: 400 as the protocol's own answer, or 0 where the connection is just closed.
pub fn first_words(mut client: Client) -> Answer {
    let line = client.line();
    let Some(status) = line.split(' ').nth(1).and_then(|status| status.parse().ok()) else {
        return Answer { status: 0, headers: Vec::new(), body: line };
    };
    client.rest(status)
}

/// An error has the shape of the API that was asked.
#[track_caller]
fn check_shape(answer: &Answer) {
    if answer.status < 400 || answer.body.is_empty() {
        return;
    }
    let body = answer.json();
    if body["status"].is_string() {
        return;
    }
    let error = &body["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
    assert!(error["type"].is_string(), "{answer:?}");
}

#[test]
fn what_no_good_client_sends() {
    let _turn = crate::turn();
    let place = Place::new();
    for (at, _) in &place.houses {
        place.is_well(*at).ok();
    }
    let before = crate::resident_bytes();
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    for Row { item, at, deed, status, says } in rows() {
        seen.insert(item);
        let what = match &deed {
            Deed::Post(path, body) => format!("{path} {}", body.to_string().chars().take(200).collect::<String>()),
            Deed::Body(body) | Deed::Bytes(body) => String::from_utf8_lossy(body).chars().take(120).collect(),
            Deed::Ask(method, path, headers) => format!("{method} {path} {headers:?}"),
            Deed::Act(_) => says.to_owned(),
        };
        let house = place.house(at);
        let answer = send(house, &deed);
        let body: String = answer.body.chars().take(600).collect();
        if answer.status != status || !answer.body.contains(says) {
            wrong.push(format!(
                "item {item}, {at:?}: {what}\n  expected {status} {says:?}\n  got {} {body}",
                answer.status
            ));
        }
        check_shape(&answer);
        let good = place.is_well(at);
        assert_eq!(good.status, 200, "item {item}, {at:?}: after {what}\n{good:?}");
        let inside = || house.get("/health").json()["requests"] == 0;
        house.wait(inside, &format!("item {item}, {at:?}: nobody to be inside after {what}"));
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(seen, (15..=29).collect(), "items of the list");
    if let (Some(before), Some(after)) = (before, crate::resident_bytes()) {
        let grown = after.saturating_sub(before);
        assert!(grown < GROWTH_BYTES, "memory grew by {grown} bytes, from {before} to {after}");
    }
    // (26) What is logged holds neither keys nor prompts.
    let log = place.log.lock().unwrap();
    assert!(log.len() > 50, "{}", log.len());
    for line in log.iter() {
        assert!(!line.contains(KEY) && !line.contains(PROMPT), "{line}");
    }
}
