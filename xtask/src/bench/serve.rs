//! `cargo xtask bench --server`: the server under load, beside llama.cpp's with the same file.
//!
//! Both serve SmolLM2-135M (`Q4_1`, which we keep in 4 bits), the small real model of `real-model`: the shapes of the other tables
//! have no tokenizer. The table is printed; what of it goes into BENCHMARKS.md is put there by hand, below the line.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::goals::number;
use super::measure::ask;
use crate::{real_model, workspace};

/// Clients at a time, requests of each, and new tokens of a request.
const CLIENTS: u64 = 16;
const ROUNDS: u64 = 4;
const TOKENS: u64 = 64;

/// A server that runs.
struct Running {
    child: Child,
    url: String,
    /// From the start to the first answer of its own that it is ready.
    ready: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Measures, and prints the table.
pub(super) fn run(binary: &Path, llamas: &[PathBuf]) -> Result<()> {
    real_model::ensure()?;
    let model = workspace::root().join("target/real-models/smollm2-135m.gguf");
    let mut rows = vec![row("mlxlm", &ours(binary, &model)?)?];
    for python in llamas {
        match theirs(python, &model) {
            Ok(running) => rows.push(row("llama.cpp, by llama-cpp-python", &running)?),
            Err(error) => eprintln!("note: llama.cpp's server in `{}`: {error:#}", python.display()),
        }
    }
    eprintln!("\n{}", table(&rows));
    Ok(())
}

/// Our server at a free port.
fn ours(binary: &Path, model: &Path) -> Result<Running> {
    let begin = Instant::now();
    let mut command = Command::new(binary);
    command.arg("server").arg("--model").arg(model).args(["--port", "0", "--log-level", "ERROR"]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("the server cannot be started")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("the server has no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let url = line.trim().trim_start_matches("listening on ").to_owned();
    wait(Running { child, url, ready: Duration::ZERO }, "/ready", begin)
}

/// llama.cpp's server, of the package `llama-cpp-python[server]`.
fn theirs(python: &Path, model: &Path) -> Result<Running> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let begin = Instant::now();
    let mut command = Command::new(python);
    command.args(["-m", "llama_cpp.server", "--n_ctx", "2048", "--port", &port.to_string(), "--model"]).arg(model);
    // By default a request ends the one before it.
    command.args(["--interrupt_requests", "false"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    wait(Running { child, url: format!("http://127.0.0.1:{port}"), ready: Duration::ZERO }, "/v1/models", begin)
}

/// Asks until the answer is 200.
fn wait(mut running: Running, path: &str, begin: Instant) -> Result<Running> {
    let address = running.url.trim_start_matches("http://").to_owned();
    while !answers(&address, path) {
        if let Some(status) = running.child.try_wait()? {
            bail!("it ended ({status})");
        }
        if begin.elapsed() > Duration::from_mins(2) {
            bail!("it does not become ready");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.ready = begin.elapsed();
    Ok(running)
}

fn answers(address: &str, path: &str) -> bool {
    use std::io::{Read, Write};
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        std::io::Result::Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// What a server does.
#[derive(Debug)]
struct Row {
    title: &'static str,
    ready: Duration,
    said: Value,
}

fn row(title: &'static str, running: &Running) -> Result<Row> {
    let script = workspace::root().join("xtask/src/bench/load.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(&running.url).arg(running.child.id().to_string());
    command.args([CLIENTS, ROUNDS, TOKENS].map(|figure| figure.to_string()));
    Ok(Row { title, ready: running.ready, said: ask(&mut command)? })
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "SmolLM2-135M, {CLIENTS} clients, prompts of 64 to 512 words, {TOKENS} new tokens.\n\n\
         | | tokens/s | first text | worst pause | one client | idle | ready after |\n\
         | --- | --: | --: | --: | --: | --: | --: |\n"
    );
    for Row { title, ready, said } in rows {
        let shown = |name: &str| said[name].as_f64().map_or_else(|| "–".to_owned(), number);
        // A string takes everything.
        let _ = writeln!(
            text,
            "| {title} | {} | {} s | {} s | {} tokens/s | {} % of a core | {} s |",
            shown("tokens_per_second"),
            shown("median_first_s"),
            shown("worst_pause_s"),
            shown("one_tokens_per_second"),
            said["idle_core_share"].as_f64().map_or_else(|| "–".to_owned(), |share| number(100.0 * share)),
            number(ready.as_secs_f64()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let said = json!({"tokens_per_second": 123.4, "median_first_s": 0.5, "idle_core_share": 0.004});
        let text = table(&[Row { title: "x", ready: Duration::from_millis(250), said }]);
        assert!(text.ends_with("| x | 123 | 0.50 s | – s | – tokens/s | 0.40 % of a core | 0.25 s |\n"), "{text}");
    }
}
