//! The server as programs of others meet it: `cargo xtask test --clients`, which gets them into `target/clients` and `target/routers`.
//!
//! The cases are in `mlxlm-serve/tests/clients`, in Python; here the server is started for them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A server that runs.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    /// Starts it with a model, as strict as OpenAI's, where an image is mentioned: the suites want both.
    fn start(model: &str, options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlxlm"));
        command.args([
            "server",
            "--model",
            model,
            "--port",
            "0",
            "--require-model",
            "--images",
            "mention",
            "--log-level",
            "ERROR",
        ]);
        let mut child = command.args(options).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        let running = Self { child, address };
        let begin = Instant::now();
        while !running.is_ready() {
            assert!(begin.elapsed() < Duration::from_mins(2), "the server does not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    fn is_ready(&self) -> bool {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.starts_with("HTTP/1.1 200")
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program of a Python environment.
fn program(environment: &str, name: &str) -> Command {
    let path = root().join("target").join(environment).join("bin").join(name);
    assert!(path.exists(), "`{}` is missing; `cargo xtask test --clients` gets it", path.display());
    Command::new(path)
}

/// Runs a file of cases.
fn pytest(environment: &str, file: &str, variables: &[(&str, &str)]) {
    let mut command = program(environment, "python");
    command.args(["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]);
    command.arg(root().join("mlxlm-serve/tests/clients").join(file)).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What `llm-comply` says of one of the APIs: nothing has failed, and so many cases passed.
fn comply(server: &Running, model: &str, format: &str, least: u64) {
    let mut command = program("clients", "llm-comply");
    command.args([
        "--format",
        format,
        "--base-url",
        &format!("{}/v1", server.url()),
        "--api-key",
        "unused",
        "--model",
        model,
    ]);
    command.arg("--json");
    if format == "anthropic" {
        command.args(["--header", "anthropic-version:2023-06-01", "--auth-header", "x-api-key", "--no-bearer"]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let results = report["results"].as_array().unwrap();
    let passed = results.iter().filter(|result| result["status"] == "passed").count() as u64;
    let bad: Vec<&Value> =
        results.iter().filter(|result| !matches!(result["status"].as_str(), Some("passed" | "skipped"))).collect();
    assert!(bad.is_empty() && passed >= least, "{passed} passed of {format}; {bad:#?}");
}

#[test]
fn packages_of_openai_and_anthropic() {
    let server = Running::start("demo", &[]);
    pytest("clients", "test_clients.py", &[("MLXLM_URL", &server.url())]);
}

#[test]
fn the_page_in_a_browser() {
    let server = Running::start("demo", &[]);
    pytest("clients", "test_page.py", &[("MLXLM_URL", &server.url())]);
}

#[test]
fn suites_of_compliance() {
    let server = Running::start("demo", &[]);
    // The cases that are skipped want a model named like one of OpenAI's or Anthropic's that thinks.
    for (format, least) in [("openai-chat", 8), ("open-responses", 12), ("anthropic", 8)] {
        comply(&server, "demo", format, least);
    }
}

#[test]
fn a_real_model_complies() {
    let model = root().join("target/real-models/smollm2-135m");
    if !model.is_dir() {
        eprintln!("skipped: `cargo xtask real-model` makes the model");
        return;
    }
    // It calls no tools.
    let server = Running::start(model.to_str().unwrap(), &["--max-tokens", "400"]);
    let mut command = program("clients", "llm-comply");
    let cases = "chat-basic-response,chat-system-prompt,chat-multi-turn,chat-streaming-response,chat-streaming-usage,chat-error-handling";
    command.args(["--format", "openai-chat", "--base-url", &format!("{}/v1", server.url()), "--api-key", "unused"]);
    let output = command.args(["--model", "smollm2-135m", "--json", "--filter", cases]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["summary"]["failed"], &report["summary"]["passed"]), (&0.into(), &6.into()), "{report:#}");
}

/// The scores of lm-evaluation-harness, which asks the server by its model `local-completions`, are those of `mlxlm evaluate`. It needs an
/// environment of its own, which is not made here: `python3 -m venv target/harness`, and in it `lm-eval[api]==0.4.13` and `transformers`.
#[test]
fn lm_evaluation_harness_finds_the_scores_of_evaluate() {
    let python = root().join("target/harness/bin/python");
    if !python.exists() {
        eprintln!("skipped: `{}` is missing", python.display());
        return;
    }
    let (tasks, names) = (root().join("mlxlm-train/tests/evaluate"), ["choice.yaml", "word.yaml", "sums.yaml"]);
    let temporary = tempfile::tempdir().unwrap();
    let mut ours = Command::new(env!("CARGO_BIN_EXE_mlxlm"));
    ours.args(["evaluate", "--model", "demo", "--no-apply-chat-template", "--output-dir"]).arg(temporary.path());
    let output = ours.arg("--tasks").args(names).current_dir(&tasks).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = temporary.path().join("eval_demo_capitals_choice_capitals_word_sums.json");
    let ours: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();

    let server = Running::start("demo", &[]);
    let mut theirs = Command::new(python);
    theirs.arg(tasks.join("harness.py")).arg(server.url()).arg(root().join("mlxlm-models/demo/demo")).arg(&tasks);
    // The tasks name their data relative to where they lie.
    theirs.env("HF_HUB_OFFLINE", "1").env("HF_HOME", temporary.path()).current_dir(&tasks);
    let output = theirs.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let scores = [
        ("capitals_choice", "acc,none"),
        ("capitals_choice", "acc_norm,none"),
        ("capitals_word", "acc,none"),
        ("capitals_word", "perplexity,none"),
        ("sums", "exact_match,number"),
    ];
    for (task, metric) in scores {
        let [here, there] = [&ours["results"], &theirs].map(|results| results[task][metric].as_f64());
        let (here, there) = (here.unwrap(), there.unwrap_or_else(|| panic!("{task} {metric}: {theirs:#}")));
        assert!(
            (here - there).abs() <= 1e-4 * here.abs(),
            "{task} {metric}: {here} by evaluate, {there} by the harness"
        );
    }
}

#[test]
fn replicas_behind_routers() {
    pytest("routers", "test_routers.py", &[("MLXLM_BIN", env!("CARGO_BIN_EXE_mlxlm"))]);
}
