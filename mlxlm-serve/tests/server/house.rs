//! A server for a test, which ends with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mlxlm_models::{LoadOptions, Loaded, load};
use mlxlm_serve::{Loader, Models, Result, Server, ServerOptions, Stop};
use serde_json::{Value, json};

use crate::client::{Answer, Client};

/// A server that runs.
pub struct House {
    pub address: SocketAddr,
    stop: Stop,
    server: Option<JoinHandle<Result<()>>>,
}

/// The model that is built in.
pub fn demo() -> Loaded {
    let folder = mlxlm_models::demo::folder("demo").unwrap().unwrap();
    load(folder, &LoadOptions::default()).unwrap()
}

/// The name that the tests' servers have.
pub const NAME: &str = "demo";

/// Options for a test: any free port.
pub fn options() -> ServerOptions {
    ServerOptions { port: 0, names: vec![NAME.into()], ..ServerOptions::default() }
}

impl House {
    /// A server with the demo model.
    pub fn demo() -> Self {
        Self::with(options(), Arc::new(|| Ok(Models { main: demo(), draft: None })))
    }

    /// A server that is ready.
    pub fn with(options: ServerOptions, loader: Loader) -> Self {
        let house = Self::start(options, loader);
        house.wait_until("/ready", 200);
        house
    }

    /// A server that has begun to load its model.
    pub fn start(options: ServerOptions, loader: Loader) -> Self {
        let server = Server::bind(options).unwrap();
        let (address, stop) = (server.addresses()[0], server.stopper());
        Self { address, stop, server: Some(thread::spawn(move || server.run(loader))) }
    }

    /// Asks until the status is this one.
    #[track_caller]
    pub fn wait_until(&self, path: &str, status: u16) {
        self.wait(|| self.get(path).status == status, &format!("{path} to be {status}"));
    }

    /// Asks until something is so.
    #[track_caller]
    pub fn wait(&self, mut is_so: impl FnMut() -> bool, what: &str) {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < Duration::from_mins(1), "waited in vain for {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[], body.to_string().as_bytes())
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut client = self.client();
        client.request(method, path, headers, body);
        client.answer()
    }

    /// A chat of one turn with these further fields.
    pub fn chat(&self, text: &str, fields: Value) -> Answer {
        let mut body = json!({"model": NAME, "messages": [{"role": "user", "content": text}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.post("/v1/chat/completions", &body)
    }

    /// A number of `/metrics`, over all models.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").body;
        let value = |line: &str| -> Option<f64> {
            let rest = line.strip_prefix(name)?;
            let value = match rest.strip_prefix('{') {
                Some(labels) => labels.rsplit_once("} ")?.1,
                None => rest.strip_prefix(' ')?,
            };
            Some(value.parse().unwrap())
        };
        let values: Vec<f64> = page.lines().filter_map(value).collect();
        assert!(!values.is_empty(), "no {name} in {page}");
        values.iter().sum()
    }

    /// Ends the server as a signal would, and says how it ended.
    pub fn stop(mut self) -> Result<()> {
        self.stop.stop();
        self.server.take().unwrap().join().unwrap()
    }

    /// Waits for a server that ends by itself.
    pub fn ended(mut self) -> Result<()> {
        self.server.take().unwrap().join().unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}
