//! A small hub on the loopback interface: the part of the protocol that downloads and uploads use, with faults on
//! demand. It serves one repository, logs every request, and ends with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const REPO: &str = "org/name";
pub const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// A file of the repository.
#[derive(Clone)]
pub struct Served {
    pub path: String,
    pub bytes: Vec<u8>,
    /// Large files are hashed by SHA-256 and served by redirect, as the hub does.
    pub large: bool,
}

impl Served {
    pub fn hash(&self) -> String {
        if self.large { hex(&Sha256::digest(&self.bytes)) } else { self.git_hash() }
    }

    fn git_hash(&self) -> String {
        hex(&Sha1::new().chain_update(format!("blob {}\0", self.bytes.len())).chain_update(&self.bytes).finalize())
    }

    fn listed(&self) -> Value {
        let mut item = json!({"type": "file", "path": self.path, "oid": self.git_hash(), "size": self.bytes.len()});
        if self.large {
            item["lfs"] = json!({"oid": self.hash(), "size": self.bytes.len(), "pointerSize": 134});
        }
        item
    }
}

pub fn file(path: &str, bytes: impl AsRef<[u8]>) -> Served {
    Served { path: path.to_owned(), bytes: bytes.as_ref().to_vec(), large: path.ends_with(".safetensors") }
}

/// The files of a small model, with some that no model needs.
pub fn model() -> Vec<Served> {
    let weights: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    vec![
        file(".gitattributes", "*.safetensors filter=lfs"),
        file("README.md", "---\nlicense: mit\n---\n"),
        file("config.json", r#"{"model_type": "llama"}"#),
        file("modeling_name.py", "print('never')"),
        file("model.safetensors", weights),
        file("sub/extra.json", "{}"),
        file("tokenizer.json", r#"{"version": "1.0"}"#),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
}

/// What is sent back.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send so many bytes of the body, then break off, at once or after a pause.
    pub cut: Option<(usize, Duration)>,
}

impl Answer {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self { status, headers: Vec::new(), body: body.as_ref().to_vec(), cut: None }
    }

    pub fn json(value: &Value) -> Self {
        Self::new(200, value.to_string())
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some((bytes, Duration::ZERO));
        self
    }
}

/// What to do otherwise than a hub would: an answer, or none to let the request pass.
type Fault = Box<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

struct State {
    files: Vec<Served>,
    fault: Fault,
    log: Mutex<Vec<Request>>,
    stop: AtomicBool,
    address: String,
    /// Where large files are: here, or at another server.
    large_files_at: Mutex<String>,
}

/// A running server.
pub struct Server(Arc<State>);

impl Server {
    pub fn start(files: Vec<Served>) -> Self {
        Self::with(files, |_| None)
    }

    pub fn with(files: Vec<Served>, fault: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            files,
            fault: Box::new(fault),
            log: Mutex::default(),
            stop: AtomicBool::new(false),
            large_files_at: Mutex::new(address.clone()),
            address,
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    break;
                }
                let state = Arc::clone(&shared);
                // A client that goes away early is none of the server's business.
                thread::spawn(move || drop(state.serve(&stream.unwrap())));
            }
        });
        Self(state)
    }

    pub fn address(&self) -> &str {
        &self.0.address
    }

    pub fn large_files_at(&self, other: &Self) {
        other.address().clone_into(&mut self.0.large_files_at.lock().unwrap());
    }

    pub fn log(&self) -> Vec<Request> {
        self.0.log.lock().unwrap().clone()
    }

    /// The requests whose target contains `part`.
    pub fn asked(&self, part: &str) -> Vec<Request> {
        self.log().into_iter().filter(|request| request.target.contains(part)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.0.address.trim_start_matches("http://"));
    }
}

impl State {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = read_request(stream)?;
        self.log.lock().unwrap().push(request.clone());
        let answer = (self.fault)(&request).unwrap_or_else(|| self.answer(&request));
        send(stream, &answer, request.method == "HEAD")
    }

    fn answer(&self, request: &Request) -> Answer {
        let (path, _) = request.target.split_once('?').unwrap_or((&request.target, ""));
        // A dataset is served as a model is.
        let path = path.replacen("/api/datasets/", "/api/models/", 1);
        let path = path.strip_prefix("/datasets").unwrap_or(&path);
        let api = format!("/api/models/{REPO}");
        if path.starts_with(&format!("{api}/revision/")) {
            return Answer::json(&json!({"id": REPO, "sha": COMMIT}));
        }
        if path == format!("{api}/tree/{COMMIT}") {
            let mut items: Vec<Value> = self.files.iter().map(Served::listed).collect();
            items.push(json!({"type": "directory", "path": "sub", "oid": "0".repeat(40)}));
            return Answer::json(&Value::from(items));
        }
        if let Some(name) = path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/"))
            && let Some(file) = self.files.iter().find(|file| file.path == name)
        {
            if file.large {
                let place = format!("{}/large/{}", self.large_files_at.lock().unwrap(), file.hash());
                return Answer::new(302, "")
                    .header("Location", place)
                    .header("X-Linked-Etag", format!("\"{}\"", file.hash()))
                    .header("X-Linked-Size", file.bytes.len().to_string());
            }
            return ranged(&file.bytes, request.range.as_deref()).header("ETag", format!("\"{}\"", file.hash()));
        }
        if let Some(hash) = path.strip_prefix("/large/")
            && let Some(file) = self.files.iter().find(|file| file.hash() == hash)
        {
            return ranged(&file.bytes, request.range.as_deref()).header("ETag", format!("\"{}\"", file.hash()));
        }
        if path == "/api/repos/create" {
            return Answer::json(&json!({"url": format!("{}/{REPO}", self.address)}));
        }
        if path == format!("{api}/preupload/main") {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let mode = |file: &Value| json!({"path": file["path"], "uploadMode": "regular"});
            let files: Vec<Value> = body["files"].as_array().unwrap().iter().map(mode).collect();
            return Answer::json(&json!({"files": files}));
        }
        if path == format!("{api}/commit/main") {
            return Answer::json(&json!({"commitUrl": "x", "commitOid": COMMIT}));
        }
        Answer::new(404, r#"{"error": "Entry not found"}"#)
    }
}

/// The bytes that a `Range: bytes=N-` asks for.
pub fn ranged(bytes: &[u8], range: Option<&str>) -> Answer {
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        Some(start) if start < bytes.len() => Answer::new(206, &bytes[start..])
            .header("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
        Some(_) => Answer::new(416, ""),
        None => Answer::new(200, bytes),
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    const LONGEST_BODY: usize = 16 << 20;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (next(), next());
    let (mut range, mut authorization, mut length) = (None, None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match (name.to_lowercase().as_str(), value.trim()) {
            ("range", value) => range = Some(value.to_owned()),
            ("authorization", value) => authorization = Some(value.to_owned()),
            ("content-length", value) => length = value.parse().unwrap(),
            _ => {}
        }
    }
    assert!(length <= LONGEST_BODY, "body of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, target, range, authorization, body })
}

fn send(mut stream: &TcpStream, answer: &Answer, head_only: bool) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} -\r\nContent-Length: {}\r\nConnection: close\r\nX-Repo-Commit: {COMMIT}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if head_only {
        return stream.flush();
    }
    let (sent, pause) = answer.cut.unwrap_or((answer.body.len(), Duration::ZERO));
    stream.write_all(&answer.body[..sent])?;
    stream.flush()?;
    thread::sleep(pause);
    Ok(())
}
