//! The bounds a template runs in: steps, time, the size of one result and of all that is alive.
//!
//! A template comes with the model and is foreign code. It runs on a thread of its own, so the accounts are that thread's.
//! Values report themselves when they are made and when they are dropped, so what counts is what is alive.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::fault::{Fault, Result};

/// Steps that one prompt may take; a long conversation takes some hundred thousand.
const STEPS: u64 = 20_000_000;
/// Bytes of text that are read or written in one step.
const BYTES_A_STEP: usize = 512;
/// How long one prompt may take.
const TIME: Duration = Duration::from_secs(10);
/// Steps between two looks at the clock.
const STEPS_A_LOOK: u64 = 4096;
/// The largest text, list or captured output that one operation may make, in bytes.
pub(super) const MAX_RESULT: usize = 16 << 20;
/// The most that may be alive at once, in bytes.
const MAX_ALIVE: usize = 256 << 20;
/// How deep values may be nested.
pub(super) const MAX_NESTING: u32 = 500;
/// How deep expressions and statements may be nested while they run, macros and all.
pub(super) const MAX_DEPTH: usize = 4000;
/// How deep macros, blocks and recursive loops may call themselves; Python stops near 300.
pub(super) const MAX_CALLS: usize = 250;
/// The stack of the thread that compiles or renders, which the depths above stay well within.
pub(super) const STACK: usize = 256 << 20;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(STEPS) };
    static NEXT_LOOK: Cell<u64> = const { Cell::new(STEPS) };
    static ALIVE: Cell<usize> = const { Cell::new(0) };
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Starts the accounts of this thread.
pub(super) fn begin() {
    LEFT.set(STEPS);
    NEXT_LOOK.set(STEPS);
    ALIVE.set(0);
    END.set(Some(Instant::now() + TIME));
}

/// Takes steps.
pub(super) fn steps(n: u64) -> Result<()> {
    let left = LEFT.get().checked_sub(n).ok_or_else(|| Fault::limit(format!("it took more than {STEPS} steps")))?;
    LEFT.set(left);
    if left < NEXT_LOOK.get() {
        NEXT_LOOK.set(left.saturating_sub(STEPS_A_LOOK));
        if END.get().is_some_and(|end| Instant::now() > end) {
            return Err(Fault::limit(format!("it took more than {} seconds", TIME.as_secs())));
        }
    }
    Ok(())
}

/// Takes the steps of reading or writing so many bytes.
pub(super) fn pass(bytes: usize) -> Result<()> {
    steps(1 + (bytes / BYTES_A_STEP) as u64)
}

/// Refuses a result that would be larger than any real one.
pub(super) fn check_size(bytes: usize) -> Result<()> {
    if bytes > MAX_RESULT {
        return Err(Fault::limit(format!("one value would take more than {} MB", MAX_RESULT >> 20)));
    }
    Ok(())
}

/// Counts something that is alive from now on.
pub(super) fn hold(bytes: usize) -> Result<()> {
    check_size(bytes)?;
    pass(bytes)?;
    let alive = ALIVE.get().saturating_add(bytes);
    if alive > MAX_ALIVE {
        return Err(Fault::limit(format!("its values take more than {} MB", MAX_ALIVE >> 20)));
    }
    ALIVE.set(alive);
    Ok(())
}

/// Counts something no more.
pub(super) fn release(bytes: usize) {
    ALIVE.set(ALIVE.get().saturating_sub(bytes));
}
