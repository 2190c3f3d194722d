//! The prompt-cache store, through the door that an engine takes: [`toy`] is the model.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod memory;
mod processes;
mod toy;
