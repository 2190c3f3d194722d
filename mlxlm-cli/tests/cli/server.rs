//! `server`: from the command line to an answer, and to the end. What the server answers is tested in its own crate.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::tiny;

/// A server that runs.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    /// Starts it, with the model `tiny` at a free port.
    fn start(bench: &Bench, options: &[&str]) -> Self {
        let args = [&["server", "--model", "tiny", "--port", "0"], options].concat();
        let mut child = bench.command().args(args).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        let running = Self { child, address };
        while running.ask("GET", "/ready", "", &[]).0 != 200 {
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// The status and the body.
    fn ask(&self, method: &str, path: &str, body: &str, headers: &[&str]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let headers: String = headers.iter().flat_map(|header| [*header, "\r\n"]).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}");
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn complete(&self, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", "/v1/completions", &body.to_string(), &[]);
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// Sends a signal, and gives the exit code and the log.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

#[test]
fn it_says_what_generate_says_and_ends_on_a_signal() {
    let bench = Bench::new();
    let expected = bench.text(&["--prompt", "hello", "-m", "12", "--ignore-chat-template"]);
    for signal in ["-TERM", "-INT"] {
        let server = Running::start(&bench, &["--max-tokens", "12"]);
        let answer = server.complete(&json!({"model": "tiny", "prompt": "hello"}));
        assert_eq!(format!("{}\n", answer["choices"][0]["text"].as_str().unwrap()), expected);
        let (code, log) = server.end(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("POST /v1/completions 200") && log.contains("the server ends"), "{log}");
        let mut asked = log.lines().filter(|line| !line.contains("GET /ready 503"));
        assert!(asked.all(|line| line.starts_with("20") && line.contains("Z Info ")), "{log}");
        assert!(!log.contains("hello"), "{log}");
    }
}

#[test]
fn keys_come_from_options_files_and_the_environment() {
    let bench = Bench::new();
    std::fs::write(bench.path("keys"), "one\n\n  two \n").unwrap();
    let server = Running::start(&bench, &["--api-key-file", "keys", "--api-key", "three", "--log-level", "ERROR"]);
    for (key, status) in [("one", 200), ("two", 200), ("three", 200), ("four", 401), ("", 401)] {
        assert_eq!(server.ask("GET", "/v1/models", "", &[&format!("authorization: Bearer {key}")]).0, status, "{key}");
    }
    let (_, log) = server.end("-TERM");
    assert_eq!(log, "");
    let empty = bench.command().args(["server", "--model", "tiny"]).env("MLXLM_API_KEY", "").output().unwrap();
    assert_eq!(empty.status.code(), Some(2), "{empty:?}");
}

#[test]
fn the_log_can_be_objects_and_the_page_left_out() {
    let bench = Bench::new();
    let server = Running::start(&bench, &["--log-format", "json", "--no-page"]);
    assert_eq!(server.ask("GET", "/", "", &[]).0, 404);
    assert_eq!(server.ask("GET", "/a%0a%1b[31m\"b", "", &[]).0, 404);
    let (_, log) = server.end("-TERM");
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let asked = lines.iter().find(|line| line["path"] == "/").unwrap();
    assert_eq!((&asked["method"], &asked["status"], &asked["level"]), (&json!("GET"), &json!(404), &json!("info")));
    assert!(asked["seconds"].is_f64() && asked["time"].is_string() && asked["message"].is_string(), "{asked}");
    assert!(lines.iter().any(|line| line.get("path").is_none() && line["message"].is_string()));
}

#[test]
fn certificates_come_in_twos() {
    let bench = Bench::new();
    for args in [["--tls-cert", "cert.pem"], ["--tls-key", "key.pem"]] {
        let ran = bench.run(&[&["server", "--model", "tiny", "--port", "0"], &args[..]].concat());
        assert!(ran.refused(2).0.contains("--tls-"), "{ran:?}");
    }
    let ran =
        bench.run(&["server", "--model", "tiny", "--port", "0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    assert!(ran.refused(2).0.contains("`cert.pem`"), "{ran:?}");
}

#[test]
fn a_draft_model_changes_no_text() {
    let bench = Bench::new();
    tiny::make(&bench.path("draft"), 8);
    let expected = bench.text(&["--prompt", "hello", "-m", "24", "--ignore-chat-template"]);
    let server = Running::start(&bench, &["--draft-model", "draft", "--num-draft-tokens", "4"]);
    for fields in
        [json!({}), json!({"num_draft_tokens": 0}), json!({"draft_model": null}), json!({"num_draft_tokens": 2})]
    {
        let mut body = json!({"prompt": "hello", "max_tokens": 24});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = server.complete(&body);
        assert_eq!(format!("{}\n", answer["choices"][0]["text"].as_str().unwrap()), expected, "{fields}");
    }
    server.end("-TERM");
}

/// A prompt of more tokens than those by which the disk finds it.
fn long() -> String {
    "number one and number two and ".repeat(12)
}

#[test]
fn prompts_survive_a_server_that_is_killed() {
    let bench = Bench::new();
    let options = ["--disk-prompt-cache-dir", "kept", "--disk-prompt-cache-min-tokens", "8"];
    let body = json!({"prompt": long(), "max_tokens": 8});
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let server = Running::start(&bench, &options);
    let first = server.complete(&body);
    assert_eq!(cached(&first), 0);
    let is_entry = |name: &str| name.starts_with("mlxlm-") && name.ends_with(".safetensors");
    let entries = || {
        let files = std::fs::read_dir(bench.path("kept")).unwrap();
        files.filter(|file| is_entry(&file.as_ref().unwrap().file_name().to_string_lossy())).count()
    };
    let begin = std::time::Instant::now();
    while entries() == 0 {
        assert!(begin.elapsed() < Duration::from_mins(1), "nothing is written");
        std::thread::sleep(Duration::from_millis(10));
    }
    // One more, so that it may be killed while it writes.
    server.complete(&json!({"prompt": format!("{} {}", "another", long()), "max_tokens": 8}));
    server.end("-KILL");
    let server = Running::start(&bench, &options);
    let again = server.complete(&body);
    assert_eq!(again["choices"], first["choices"]);
    assert_eq!(cached(&again), again["usage"]["prompt_tokens"].as_u64().unwrap() - 1);
    // Another model does not take them.
    server.end("-TERM");
    tiny::make(&bench.path("tiny"), 99);
    let server = Running::start(&bench, &options);
    assert_eq!(cached(&server.complete(&body)), 0);
    server.end("-TERM");
}

/// Asks, and does not mind if the server is gone before it answers.
fn ask_in_vain(address: &str, body: &str) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    if write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).is_ok() {
        drop(stream.read_to_end(&mut Vec::new()));
    }
}

/// It is killed while prompts are read, tokens come, requests wait and files are written, at another moment each time.
#[test]
fn a_server_that_is_killed_under_load_leaves_nothing_broken() {
    let bench = Bench::new();
    let plain = Running::start(&bench, &["--prompt-cache-size", "0"]);
    let bodies: Vec<Value> = (0..6).map(|i| json!({"prompt": format!("{i} {}", long()), "max_tokens": 8})).collect();
    let expected: Vec<Value> = bodies.iter().map(|body| plain.complete(body)["choices"].clone()).collect();
    plain.end("-TERM");
    let options = [
        "--disk-prompt-cache-dir",
        "kept",
        "--disk-prompt-cache-min-tokens",
        "8",
        "--prefill-step-size",
        "16",
        "--decode-concurrency",
        "2",
    ];
    for round in 0..4 {
        let server = Running::start(&bench, &options);
        let threads: Vec<_> = bodies
            .iter()
            .map(|body| {
                let (address, mut body) = (server.address.clone(), body.clone());
                body["max_tokens"] = 60.into();
                body["stream"] = (round % 2 == 0).into();
                std::thread::spawn(move || (0..20).for_each(|_| ask_in_vain(&address, &body.to_string())))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(120 + 170 * round));
        server.end("-KILL");
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    let server = Running::start(&bench, &options);
    for (body, expected) in bodies.iter().zip(&expected) {
        assert_eq!(server.complete(body)["choices"], *expected);
    }
    // What the last server has not written yet, this one has.
    server.end("-TERM");
    let server = Running::start(&bench, &options);
    for (body, expected) in bodies.iter().zip(&expected) {
        let answer = server.complete(body);
        assert_eq!(answer["choices"], *expected);
        let usage = &answer["usage"];
        assert_eq!(
            usage["prompt_tokens_details"]["cached_tokens"].as_u64(),
            usage["prompt_tokens"].as_u64().map(|total| total - 1),
            "{answer}"
        );
    }
    server.end("-TERM");
    // Nothing is left in the making.
    let files = std::fs::read_dir(bench.path("kept")).unwrap();
    let names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let strange: Vec<&String> =
        names.iter().filter(|name| !name.starts_with("mlxlm-") && *name != ".mlxlm-store.lock").collect();
    assert!(strange.is_empty(), "{names:?}");
}

#[test]
fn proposals_change_no_text() {
    let bench = Bench::new();
    let prompt = "one two three one two three one two";
    let expected = bench.text(&["--prompt", prompt, "-m", "24", "--ignore-chat-template"]);
    for options in [&["--prompt-lookup-num-tokens", "6"][..], &["--auto-speculative"]] {
        let server = Running::start(&bench, options);
        for _ in 0..2 {
            // The second time it knows the answer from the first.
            let answer = server.complete(&json!({"prompt": prompt, "max_tokens": 24}));
            assert_eq!(format!("{}\n", answer["choices"][0]["text"].as_str().unwrap()), expected, "{options:?}");
        }
        server.end("-TERM");
    }
    let ran = bench.run(&["server", "--model", "tiny", "--draft-model", "tiny", "--prompt-lookup-num-tokens", "2"]);
    assert!(ran.refused(2).0.contains("both propose"));
}

#[test]
fn models_of_a_folder_are_served_when_they_are_asked_for() {
    let bench = Bench::new();
    tiny::make(&bench.path("models/second"), 8);
    tiny::make(&bench.path("outside"), 9);
    let server = Running::start(&bench, &["--model-dir", "models", "--ttl", "3600"]);
    let first = server.complete(&json!({"model": "tiny", "prompt": "hello", "max_tokens": 8}));
    let second = server.complete(&json!({"model": "second", "prompt": "hello", "max_tokens": 8}));
    assert_ne!(first["choices"], second["choices"]);
    for name in ["../outside", "outside", "third", "org/name"] {
        let body = json!({"model": name, "prompt": "hello", "max_tokens": 2}).to_string();
        assert_eq!(server.ask("POST", "/v1/completions", &body, &[]).0, 404, "{name}");
    }
    server.end("-TERM");
    // Each is too large for a budget that fits one of them only.
    let server = Running::start(&bench, &["--model-dir", "models", "--memory-budget", "1K"]);
    let body = json!({"model": "second", "prompt": "hello", "max_tokens": 2}).to_string();
    assert_eq!(server.ask("POST", "/v1/completions", &body, &[]).0, 507);
    server.end("-TERM");
}

#[test]
fn what_cannot_be_served_is_an_error_line() {
    let bench = Bench::new();
    let refused = |args: &[&str], code| {
        let ran = bench.run(&[&["server", "--port", "0", "--log-level", "ERROR"], args].concat());
        ran.refused(code).0.to_owned()
    };
    assert!(refused(&["--model", "nothing"], 1).contains("nothing"));
    assert_eq!(
        refused(&["--model", "tiny", "--temp", "-1"], 2),
        "`--temp` is -1, expected a finite number that is not negative"
    );
    assert!(refused(&["--model", "tiny", "--pipeline"], 2).contains("--pipeline"));
    assert!(refused(&["--model", "tiny", "--chat-template-args", "[]"], 2).contains("--chat-template-args"));
    assert!(refused(&["--model", "tiny", "--prompt-cache-bytes", "many"], 2).contains("32M or 4GB"));
    assert!(refused(&["--model", "tiny", "--host", "no.such.host.invalid"], 2).contains("no.such.host.invalid"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = bench.run(&["server", "--model", "tiny", "--port", &port]);
    assert!(ran.refused(2).1.contains("another program uses this port"), "{ran:?}");
}

#[test]
fn standard_error_that_is_closed_ends_no_server() {
    let bench = Bench::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = bench.command();
    let mut child =
        child.args(["serve", "--model", "tiny", "--port", "0"]).stderr(Stdio::from(writer)).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
    for _ in 0..3 {
        assert!(TcpStream::connect(&address).is_ok());
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
