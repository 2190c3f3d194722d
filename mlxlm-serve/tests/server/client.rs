//! A client of HTTP/1.1, as small as the tests need it: it sends what a test wants, also what no good client would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a test waits for bytes before it fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer in which nothing went wrong.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The error's message, after its status and shape are checked.
    #[track_caller]
    pub fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let error = &self.json()["error"];
        assert!(error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some(), "{self:?}");
        error["message"].as_str().unwrap().to_owned()
    }

    /// The data of the events, in order, and whether `[DONE]` was the last.
    #[track_caller]
    pub fn events(&self) -> (Vec<Value>, bool) {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/event-stream")), "{self:?}");
        let mut events = Vec::new();
        let mut is_done = false;
        for event in self.body.split_terminator("\n\n") {
            for line in event.lines().filter(|line| !line.starts_with(':') && !line.starts_with("event: ")) {
                assert!(!is_done, "after the end: {line}");
                match line.strip_prefix("data: ").unwrap_or_else(|| panic!("{line:?}")) {
                    "[DONE]" => is_done = true,
                    data => events.push(serde_json::from_str(data).unwrap()),
                }
            }
        }
        (events, is_done)
    }
}

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Sends a request with a body.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += "host: localhost\r\n";
        }
        for (name, value) in headers {
            head += &[name, ": ", value, "\r\n"].concat();
        }
        // The server may have answered, and closed, before it has all of a body that is too long.
        drop(self.stream.get_mut().write_all(&[head.as_bytes(), b"\r\n", body].concat()));
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> Answer {
        Answer { status: self.status(), headers: self.headers(), body: String::new() }
    }

    fn headers(&mut self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.trim_end().split_once(": ") else { return headers };
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The next piece of a body that comes in pieces; nothing at its end.
    pub fn piece(&mut self) -> Option<String> {
        let size = self.line();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("{size:?}"));
        let mut bytes = vec![0; size + 2];
        self.stream.read_exact(&mut bytes).unwrap();
        (size > 0).then(|| String::from_utf8(bytes[..size].to_vec()).unwrap())
    }

    /// Reads a whole answer.
    pub fn answer(&mut self) -> Answer {
        let status = self.status();
        self.rest(status)
    }

    fn status(&mut self) -> u16 {
        let line = self.line();
        line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap()
    }

    /// Reads an answer whose first line was read.
    pub fn rest(&mut self, status: u16) -> Answer {
        let mut answer = Answer { status, headers: self.headers(), body: String::new() };
        if let Some(length) = answer.header("content-length") {
            let mut bytes = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut bytes).unwrap();
            answer.body = String::from_utf8(bytes).unwrap();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = std::iter::from_fn(|| self.piece()).collect();
        }
        answer
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}
