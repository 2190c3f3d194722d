//! The program itself: run to its end, or as a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs it in a folder, and gives what it printed.
pub(crate) fn run(folder: &Path, args: &[&str]) -> String {
    let output = command(folder, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxlm"));
    command.args(args).current_dir(folder).env("HF_HUB_OFFLINE", "1");
    command
}

/// A server that runs until this goes.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts one in a folder, at a free port, and waits until its model is there.
    pub(crate) fn start(folder: &Path, options: &[&str]) -> Self {
        let args = [&["server", "--port", "0", "--log-level", "ERROR"], options].concat();
        let mut child = command(folder, &args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        let (server, begin) = (Self { child, address }, Instant::now());
        while server.ask("GET", "/ready", "").0 != 200 {
            assert!(begin.elapsed() < Duration::from_mins(5), "the server does not become ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// What it answers to an object.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, &body.to_string());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
