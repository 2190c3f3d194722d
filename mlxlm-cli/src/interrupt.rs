//! Ctrl-C in a chat: while the model loads it ends the program; while it reads or talks the first stops the answer, and one that comes
//! later, should the answer not have stopped, ends the program. `kill` and a closed terminal (SIGTERM, SIGHUP) are left to the system,
//! which ends the process at once and runs nothing of it.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mlxlm_core::device;

use crate::failure::{Failure, Result};
use crate::mode;

const LOADING: u8 = 0;
const WAITING: u8 = 1;
const ANSWERING: u8 = 2;
const STOPPING: u8 = 3;

/// What shells expect of a program that was interrupted.
pub(crate) const INTERRUPTED: i32 = 130;

/// At a terminal, a second Ctrl-C within this time is taken for the same one: keys bounce, and people press twice.
const AGAIN: Duration = Duration::from_secs(1);

/// Has Ctrl-C, SIGTERM and SIGHUP remove what this process has in the making, and end it.
#[cfg(unix)]
pub(crate) fn clean_up_on_signals() -> Result {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    /// Shells add this to the number of the signal.
    const ENDED_BY_SIGNAL: i32 = 128;
    let cannot = |error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(cannot)?;
    let listen = move || {
        if let Some(signal) = signals.forever().next() {
            mlxlm_core::io::abandon();
            device::exit(ENDED_BY_SIGNAL + signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map(drop).map_err(cannot)
}

/// Hears of every Ctrl-C from when it is made.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<AtomicU8>);

impl Interrupt {
    /// Takes over Ctrl-C.
    pub(crate) fn install() -> Result<Self> {
        let state = Arc::new(AtomicU8::new(LOADING));
        let heard = Arc::clone(&state);
        let first = Mutex::new(None::<Instant>);
        let handler = move || {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            let is_terminal = io::stdin().is_terminal();
            match heard.compare_exchange(ANSWERING, STOPPING, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => *first = Some(Instant::now()),
                // The line editor hears of it.
                Err(WAITING) if is_terminal => {}
                Err(STOPPING) if is_terminal && first.is_some_and(|first| first.elapsed() < AGAIN) => {}
                Err(_) => {
                    mode::restore();
                    device::exit(INTERRUPTED)
                }
            }
        };
        ctrlc::set_handler(handler).map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(Self(state))
    }

    /// The model is there: where the user types at a terminal, the line editor hears of Ctrl-C from now on.
    pub(crate) fn loaded(&self) {
        self.0.store(WAITING, Ordering::SeqCst);
    }

    /// Runs `answer`, which is to ask now and then whether it should stop.
    pub(crate) fn during<T>(&self, answer: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
        self.0.store(ANSWERING, Ordering::SeqCst);
        let done = answer(&|| self.0.load(Ordering::SeqCst) == STOPPING);
        self.0.store(WAITING, Ordering::SeqCst);
        done
    }
}
