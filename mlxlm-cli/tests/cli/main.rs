//! The `mlxlm` binary as a user meets it: words in, text and exit codes out.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]

mod bad_input;
mod bad_output;
mod bench;
mod benchmark;
mod cache_prompt;
mod chat;
mod convert;
mod demo;
mod generate;
mod help;
mod hub;
mod manage;
/// The hub of the tests of mlxlm-core.
#[allow(dead_code, reason = "faults are tested there")]
#[path = "../../../mlxlm-core/tests/hub/server.rs"]
mod server;
mod tiny;
