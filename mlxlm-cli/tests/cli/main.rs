//! The `mlxlm` binary as a user meets it: words in, text and exit codes out.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]

mod bad_input;
mod bad_output;
mod bench;
mod benchmark;
mod cache_prompt;
mod chat;
#[cfg(target_os = "linux")]
mod chat_terminal;
mod check;
mod convert;
mod decoding;
mod demo;
mod evaluate;
mod generate;
mod gguf;
mod help;
mod hub;
/// The hub of the tests of mlxlm-core.
#[allow(dead_code, reason = "faults are tested there")]
#[path = "../../../mlxlm-core/tests/hub/server.rs"]
mod hub_server;
#[cfg(target_os = "linux")]
mod leaving;
#[cfg(target_os = "linux")]
mod little_memory;
mod lora;
mod manage;
mod merge;
mod models;
mod perplexity;
#[cfg(target_os = "linux")]
mod pty;
mod quant;
#[cfg(unix)]
mod server;
mod tiny;
