//! The server as a client meets it: over real sockets, with the demo model and with models that fail on purpose.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]

mod access;
mod adapters;
mod anthropic;
mod chat;
#[allow(dead_code, reason = "the tests in `limits` use more of it")]
mod client;
mod completions;
mod counter;
mod docs;
mod faults;
mod held;
mod house;
mod kept;
mod many;
mod models;
mod page;
mod responses;
mod reuse;
mod routes;
mod shelf;
mod speculation;
mod thinking;
mod tls;
mod tools;
