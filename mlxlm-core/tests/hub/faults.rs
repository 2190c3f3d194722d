//! What goes wrong on the way: refusals, broken connections, wrong bytes, hostile listings.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlxlm_core::hub::Progress;
use serde_json::{Value, json};

use crate::server::{Answer, COMMIT, REPO, Request, Served, Server, file, model, ranged};
use crate::{Bench, names, words};

fn weights() -> Served {
    model().into_iter().find(|served| served.large).unwrap()
}

/// A fault for the bytes of the weights, given how often they were asked for before.
fn on_weights(fault: impl Fn(usize, &Request) -> Option<Answer> + Send + Sync + 'static) -> Server {
    let asked = AtomicUsize::new(0);
    Server::with(model(), move |request| {
        let mine = request.target.starts_with("/large/");
        if mine { fault(asked.fetch_add(1, Ordering::Relaxed), request) } else { None }
    })
}

fn cut(request: &Request, bytes: usize) -> Answer {
    ranged(&weights().bytes, request.range.as_deref()).cut(bytes)
}

#[test]
fn a_broken_connection_is_taken_up_where_it_was() {
    let server = on_weights(|nth, request| (nth == 0).then(|| cut(request, 100_000)));
    let bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights().bytes);
    let ranges: Vec<Option<String>> = server.asked("/large/").into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
    assert_eq!(bench.events("Retry").len(), 1);
}

#[test]
fn the_next_run_goes_on_where_the_last_one_stopped() {
    let broken = on_weights(|nth, request| Some(cut(request, if nth == 0 { 100_000 } else { 0 })));
    let mut bench = Bench::new(&broken);
    let (message, hint) = bench.failure();
    assert!(message.contains("the download of `model.safetensors` stopped at 100000 of 300000 bytes"), "{message}");
    assert!(hint.contains("run again"), "{hint}");
    let partial = bench.repo().join("blobs").join(format!("{}.incomplete", weights().hash()));
    assert_eq!(fs::metadata(&partial).unwrap().len(), 100_000);
    assert!(!bench.repo().join("refs").exists(), "a half download is no revision");

    let server = Server::start(model());
    server.address().clone_into(&mut bench.options.endpoint);
    let folder = bench.resolve().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights().bytes);
    assert_eq!(server.asked("/large/")[0].range.as_deref(), Some("bytes=100000-"));
    assert!(!partial.exists());
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let server = on_weights(|nth, request| match nth {
        0 => Some(cut(request, 100_000)),
        _ => Some(Answer::new(200, weights().bytes)),
    });
    let bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights().bytes);
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    let server = on_weights(|nth, request| match nth {
        0 => Some(cut(request, 100_000)),
        _ => Some(ranged(&weights().bytes, Some("bytes=5-"))),
    });
    let (message, _) = Bench::new(&server).failure();
    assert!(
        message.contains("the range `bytes 5-299999/300000` of `model.safetensors`, asked from 100000"),
        "{message}"
    );
}

#[test]
fn a_silent_server_is_given_up_on() {
    let server = on_weights(|nth, request| {
        (nth == 0).then(|| Answer { cut: Some((1000, Duration::from_secs(2))), ..cut(request, 1000) })
    });
    let mut bench = Bench::new(&server);
    bench.options.timeout = Duration::from_millis(300);
    bench.resolve().unwrap();
    assert_eq!(server.asked("/large/")[1].range.as_deref(), Some("bytes=1000-"));
}

#[test]
fn what_an_earlier_client_spoiled_is_fetched_anew() {
    let server = Server::start(model());
    let check = |left: Vec<u8>| {
        let bench = Bench::new(&server);
        let blobs = bench.repo().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", weights().hash())), left).unwrap();
        let folder = bench.resolve().unwrap();
        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights().bytes);
    };
    check(vec![9; 1000]);
    check(vec![9; 300_000]);
    check(vec![9; 400_000]);
    check(weights().bytes);
    check(Vec::new());

    // A blob of the wrong size is none.
    let bench = Bench::new(&server);
    fs::create_dir_all(bench.repo().join("blobs")).unwrap();
    fs::write(bench.repo().join("blobs").join(weights().hash()), "short").unwrap();
    assert_eq!(fs::read(bench.resolve().unwrap().join("model.safetensors")).unwrap(), weights().bytes);
}

#[test]
fn wrong_bytes_never_reach_the_cache() {
    let check = |body: fn() -> Vec<u8>, expected: &str| {
        let server = on_weights(move |_, _| Some(Answer::new(200, body())));
        let bench = Bench::new(&server);
        let (message, hint) = bench.failure();
        assert!(message.contains(expected), "{message}");
        assert!(hint.contains("run again"), "{hint}");
        assert!(
            !names(&bench.repo()).iter().any(|name| name.contains(&weights().hash())),
            "{:?}",
            names(&bench.repo())
        );
    };
    check(|| vec![1; 300_000], "download of `model.safetensors` has hash");
    check(|| vec![1; 300_001], "download of `model.safetensors` has size over 300000 bytes, expected 300000");
}

/// What the failure says when the hub answers the first question so.
fn refusal(token: bool, status: u16, code: &str, said: &str) -> (String, String) {
    let (code, said) = (code.to_owned(), said.to_owned());
    let server = Server::with(model(), move |_| {
        let answer = Answer::new(status, json!({"error": said}).to_string()).header("Retry-After", "0");
        Some(if code.is_empty() { answer } else { answer.header("X-Error-Code", code.as_str()) })
    });
    let mut bench = Bench::new(&server);
    bench.options.token = token.then(|| "hf_x".to_owned());
    let (message, hint) = bench.failure();
    assert_eq!(names(&bench.options.cache), [""; 0]);
    (message.replace(server.address(), "HUB"), hint.replace(server.address(), "HUB"))
}

#[test]
fn refusals_say_what_and_how_to_mend() {
    let check = |(message, hint): (String, String), expected: &str, remedy: &str| {
        assert_eq!(message, expected);
        assert!(hint.contains(remedy), "{hint}");
    };
    let not_found = "repository `org/name` was not found at HUB";
    check(
        refusal(false, 401, "RepoNotFound", "Invalid username or password."),
        not_found,
        "if it is private, set HF_TOKEN",
    );
    check(refusal(false, 401, "", ""), not_found, "check the spelling");
    check(refusal(true, 404, "RepoNotFound", "Repository not found"), not_found, "the token may lack access");
    check(refusal(true, 404, "RevisionNotFound", ""), "repository `org/name` has no revision `main`", "branches");
    let gated = "access to `org/name` is gated";
    check(refusal(false, 401, "GatedRepo", "Access restricted"), gated, "at HUB/org/name, then set HF_TOKEN");
    check(refusal(true, 403, "GatedRepo", ""), gated, "fine-grained");
    let bad_token = refusal(true, 401, "", "Invalid credentials in Authorization header");
    check(bad_token, "HUB does not accept the token", "expired");
    check(refusal(true, 403, "", "No"), "reading `org/name` is not allowed: No", "scope");
    check(refusal(true, 403, "", ""), "reading `org/name` is not allowed: status 403", "scope");
    check(refusal(false, 429, "", ""), "rate limit reached at HUB", "try again");
    check(refusal(false, 503, "", "Down"), "HUB answered 503 about `org/name`: Down", "try again later");
    check(refusal(false, 418, "", ""), "HUB answered 418 about `org/name`", "");
    check(
        refusal(false, 200, "", ""),
        "HUB gave an answer about `org/name` that cannot be used: it names no commit",
        "proxy",
    );
}

#[test]
fn what_may_pass_is_tried_again() {
    let asked = Mutex::new(BTreeMap::<String, usize>::new());
    let server = Server::with(model(), move |request| {
        // A redirect is part of the same attempt.
        if request.target.starts_with("/large/") {
            return None;
        }
        let mut asked = asked.lock().unwrap();
        let times = asked.entry(request.target.clone()).or_default();
        *times += 1;
        let status = [503, 429, 500, 502].get(*times - 1)?;
        Some(Answer::new(*status, "").header("Retry-After", "0"))
    });
    let bench = Bench::new(&server);
    bench.resolve().unwrap();
    for file in ["\"\"", "\"config.json\"", "\"model.safetensors\""] {
        assert!(bench.events(&format!("Retry {{ file: {file}")).len() >= 4, "{file}");
    }
}

#[test]
fn without_a_network_the_cache_answers_and_says_so() {
    let server = Server::start(model());
    let mut bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    bench.options.endpoint = nowhere;
    assert_eq!(bench.resolve().unwrap(), folder);
    assert_eq!(bench.events("FromCache").len(), 1);
    assert!(bench.hub().file(REPO, None, "config.json", &Progress::none()).unwrap().is_some());

    let (message, hint) = words(&bench.hub().resolve("org/other", None, &Progress::none()).unwrap_err());
    assert!(message.contains("cannot be reached: Connection refused"), "{message}");
    assert!(hint.contains("HF_ENDPOINT"), "{hint}");
}

#[test]
fn a_hub_that_refuses_leaves_the_cache_usable() {
    let refuse =
        |code: &'static str| Server::with(model(), move |_| Some(Answer::new(401, "").header("X-Error-Code", code)));
    let server = Server::start(model());
    let mut bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    let gone = refuse("RepoNotFound");
    gone.address().clone_into(&mut bench.options.endpoint);
    assert_eq!(bench.resolve().unwrap(), folder);
    assert!(bench.events("FromCache")[0].contains("was not found"));
    // A revision that has gone was meant by name: its old commit is not what is asked for.
    let gone = refuse("RevisionNotFound");
    gone.address().clone_into(&mut bench.options.endpoint);
    assert!(bench.failure().0.contains("has no revision"));
}

/// A server whose listing is `items`.
fn listing(items: Value) -> Server {
    Server::with(model(), move |request| request.target.contains("/tree/").then(|| Answer::json(&items)))
}

#[test]
fn a_listing_cannot_lead_out_of_the_cache() {
    let hash = "0".repeat(40);
    for path in ["../../../evil.json", "/tmp/evil.json", "sub/../../evil.json"] {
        let server = listing(json!([{"type": "file", "path": path, "oid": hash, "size": 2}]));
        let bench = Bench::new(&server);
        let (message, hint) = bench.failure();
        assert!(message.contains(&format!("lists the file `{path}`, which would be written outside")), "{message}");
        assert!(hint.contains("do not use"), "{hint}");
        assert!(!bench.options.cache.exists());
    }
    let server = listing(json!([{"type": "file", "path": "config.json", "oid": "../../evil", "size": 2}]));
    assert!(Bench::new(&server).failure().0.contains("`../../evil` is not the hash of `config.json`"));
    let server = listing(json!({"error": "no list"}));
    assert!(Bench::new(&server).failure().0.contains("expected a list of files"));
    let server = Server::with(model(), |request| {
        let next = "<http://127.0.0.1:1/steal>; rel=\"next\"";
        request.target.contains("/tree/").then(|| Answer::json(&json!([])).header("Link", next))
    });
    assert!(Bench::new(&server).failure().0.contains("the listing goes on at another host"));
    let server = Server::with(model(), |request| {
        request.target.contains("/revision/").then(|| Answer::json(&json!({"sha": "../../evil"})))
    });
    assert!(Bench::new(&server).failure().0.contains("it names no commit"));
    let server = Server::with(model(), |_| Some(Answer::new(200, "<html>log in</html>")));
    assert!(Bench::new(&server).failure().0.contains("cannot be used: expected value"));
}

/// A long listing is read as it comes: what is in memory is what is kept of it.
#[test]
fn a_long_listing_and_a_long_name_are_bounded() {
    let hash = "0".repeat(40);
    let folders: Vec<Value> = (0..50_000)
        .map(|n| json!({"type": "directory", "path": format!("folder-{n}"), "oid": hash, "size": 0, "more": [n]}))
        .collect();
    let server = listing(Value::from(folders));
    assert_eq!(Bench::new(&server).failure().0, "repository `org/name` has no config.json");
    let server = listing(json!([{"type": "file", "path": "a".repeat(5000), "oid": hash, "size": 1}]));
    assert!(Bench::new(&server).failure().0.contains("which would be written outside"));
    let server = Server::with(model(), |request| {
        request.target.contains("/tree/").then(|| Answer::new(200, " ".repeat((64 << 20) + 1)))
    });
    assert!(Bench::new(&server).failure().0.contains("of 67108864 bytes at most"));
}

/// A disk, a copy or another client may spoil what was whole once.
#[test]
fn a_damaged_blob_is_fetched_again() {
    let server = Server::start(model());
    let mut bench = Bench::new(&server);
    let folder = bench.resolve().unwrap();
    let (file, blob) = (folder.join("model.safetensors"), bench.repo().join("blobs").join(weights().hash()));
    assert!(bench.events("Check").is_empty(), "what was just downloaded is not hashed again");
    let damage = || {
        let mut bytes = weights().bytes;
        bytes[1000] ^= 1;
        fs::write(&blob, bytes).unwrap();
    };
    damage();
    assert_eq!(bench.resolve().unwrap(), folder);
    assert_eq!(fs::read(&file).unwrap(), weights().bytes);
    assert_eq!(server.asked("/large/").len(), 2);
    let checked = bench.events("Check").len();
    bench.resolve().unwrap();
    assert_eq!(bench.events("Check").len(), checked, "what is sound is hashed once");

    damage();
    bench.options.offline = true;
    let (message, _) = bench.failure();
    assert!(message.contains("is incomplete: `model.safetensors` missing or damaged"), "{message}");
    bench.options.offline = false;
    bench.hub().resolve(REPO, Some(COMMIT), &Progress::none()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), weights().bytes);
}

#[test]
fn a_slow_answer_and_a_pause_are_reported() {
    let asked = AtomicUsize::new(0);
    let server = Server::with(model(), move |request| {
        let mine = request.target.contains("/revision/") && asked.fetch_add(1, Ordering::Relaxed) == 0;
        mine.then(|| Answer::new(429, "").header("Retry-After", "1"))
    });
    let bench = Bench::new(&server);
    bench.resolve().unwrap();
    assert!(bench.events("Retry")[0].ends_with("pause: 1s }"), "{:?}", bench.events("Retry"));
}

#[test]
fn a_repository_without_a_model_is_refused_before_the_download() {
    let check = |files: Vec<Served>, expected: &str| {
        let server = Server::start(files);
        let (message, hint) = Bench::new(&server).failure();
        assert_eq!(message, expected);
        assert!(hint.contains("config.json"), "{hint}");
        assert!(server.asked("/resolve/").is_empty());
    };
    check(vec![file("README.md", "")], "repository `org/name` has no config.json");
    let torch = vec![file("config.json", "{}"), file("pytorch_model.bin", "")];
    check(torch, "repository `org/name` has no model*.safetensors: it holds PyTorch files");
    let gguf = vec![file("config.json", "{}"), file("q4.gguf", "")];
    check(gguf, "repository `org/name` has no model*.safetensors: it holds GGUF files");
}

#[test]
fn a_listed_file_that_is_not_served_is_named() {
    let server =
        Server::with(model(), |request| request.target.ends_with("/tokenizer.json").then(|| Answer::new(404, "")));
    assert_eq!(Bench::new(&server).failure().0, "repository `org/name` has no file `tokenizer.json`");
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let server = Server::start(model());
    let bench = Bench::new(&server);
    fs::write(&bench.options.cache, "a file where the folder should be").unwrap();
    let (message, _) = bench.failure();
    assert!(message.contains("cannot create") && message.contains("hub"), "{message}");
}

#[test]
fn a_token_that_is_no_header_is_refused() {
    let server = Server::start(model());
    let mut bench = Bench::new(&server);
    bench.options.token = Some("two\nlines".to_owned());
    assert!(bench.failure().0.contains("does not accept the token"));
    assert!(server.asked(COMMIT).is_empty());
}
