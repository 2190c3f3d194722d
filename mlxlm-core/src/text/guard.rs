//! Foreign code under guard: what the `tokenizers` crate does with a file that it cannot trust.
//!
//! Its panics become errors and print nothing. Its time is bounded: the regular expressions of a tokenizer may backtrack for
//! hours, and the library has no way to stop them, so such work runs on a thread of its own, which is left behind when
//! it takes too long.
//!
//! Unusual: the first call installs a panic hook for the whole process. It stays silent for panics that are caught here
//! and hands all others to the hook that was there before.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::{Once, mpsc};
use std::time::Duration;

use crate::process;

/// The time that work gets however small it is; a text of a page takes some microseconds.
const BASE_SECONDS: u64 = 5;

/// The speed that is expected at least; real tokenizers are 10 to 100 times faster.
const BYTES_A_SECOND: u64 = 100_000;

/// As much as a main thread has.
const STACK_BYTES: usize = 8 << 20;

thread_local! {
    /// Whether this thread is in [`guarded`], where a panic is caught and returned as an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; what it says of a panic, or of an error, comes back.
pub(crate) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    install_hook();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) if message.starts_with("Onig") => message.clone(),
            (Some(message), _) => format!("its tables contradict each other ({message})"),
            (None, Some(message)) => format!("its tables contradict each other ({message})"),
            (None, None) => "its tables contradict each other".into(),
        }),
    }
}

/// Runs `work` over `bytes` bytes of text as [`guarded`] does, and no longer than any real tokenizer takes.
pub(crate) fn timed<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> tokenizers::Result<T> + Send + 'static,
) -> Result<T, String> {
    within(Duration::from_secs(BASE_SECONDS + bytes as u64 / BYTES_A_SECOND), work)
}

fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> tokenizers::Result<T> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || {
        let result = guarded(work);
        // Nobody listens any more if the time is over.
        let _ = sender.send(result);
    };
    process::thread("tokenizer", STACK_BYTES)
        .and_then(|thread| thread.spawn(run))
        .map_err(|error| format!("the system does not start a thread: {error}"))?;
    receiver.recv_timeout(limit).unwrap_or_else(|_| {
        Err(format!(
            "it was stopped after {} seconds; its rules, most often a regular expression, take too long on this text",
            limit.as_secs()
        ))
    })
}

fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                previous(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn panics_become_errors() {
        let fail = |message: &'static str| guarded(|| -> tokenizers::Result<()> { panic!("{message}") }).unwrap_err();
        assert_eq!(fail("Onig: too long"), "Onig: too long");
        assert_eq!(fail("index 5"), "its tables contradict each other (index 5)");
        assert_eq!(guarded(|| -> tokenizers::Result<()> { Err("no".into()) }).unwrap_err(), "no");
        assert!(!GUARDED.get());
        assert_eq!(guarded(|| Ok(guarded(|| Ok(1))?)), Ok(1));
    }

    #[test]
    fn only_panics_that_are_caught_are_silent() {
        guarded(|| Ok(())).unwrap();
        let printed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&printed);
        // A hook of somebody who comes later is not replaced, and chains to ours.
        let ours = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some("counted") && !GUARDED.get() {
                count.fetch_add(1, Ordering::SeqCst);
            } else {
                ours(info);
            }
        }));
        let run = |work: fn()| thread::Builder::new().name("counted".into()).spawn(work).unwrap().join();
        run(|| drop(guarded(|| -> tokenizers::Result<()> { panic!("caught") }))).unwrap();
        assert_eq!(printed.load(Ordering::SeqCst), 0);
        run(|| panic!("not caught")).unwrap_err();
        assert_eq!(printed.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn work_that_takes_too_long_is_left_behind() {
        let slow = || {
            thread::sleep(Duration::from_mins(1));
            Ok(())
        };
        let error = within(Duration::from_millis(20), slow).unwrap_err();
        assert!(error.starts_with("it was stopped after 0 seconds"), "{error}");
        assert_eq!(timed(10, || Ok(7)), Ok(7));
        assert!(timed(10, || -> tokenizers::Result<()> { panic!("x") }).unwrap_err().contains("contradict"));
    }
}
