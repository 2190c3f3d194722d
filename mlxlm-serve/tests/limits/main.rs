//! The server under what should not happen to it, with an eye on its memory: these tests have a process of their own, and take turns
//! in it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]
#![allow(unreachable_pub, reason = "the modules of a test binary are its whole world")]
#![allow(dead_code, reason = "helpers are shared with the tests in `server`, which use more of them")]

mod bad_list;
#[path = "../server/client.rs"]
mod client;
#[path = "../server/counter.rs"]
mod counter;
#[path = "../server/house.rs"]
mod house;
mod load;
mod rows;

use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// Waits for the other tests of this process to be over.
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory that this process has now, in bytes, if the system says so.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    // Pages of 4 KiB; where they are larger, this is too little, by the same factor each time.
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}
