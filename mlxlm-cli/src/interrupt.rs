//! Ctrl-C while the model talks: the first stops the answer, the second the program.

use std::io::{self, IsTerminal};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::failure::{Failure, Result};

const WAITING: u8 = 0;
const ANSWERING: u8 = 1;
const STOPPING: u8 = 2;

/// What shells expect of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// Hears of every Ctrl-C from when it is made.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<AtomicU8>);

impl Interrupt {
    /// Takes over Ctrl-C. Where the user types at a terminal, the line editor hears of it first.
    pub(crate) fn install() -> Result<Self> {
        let state = Arc::new(AtomicU8::new(WAITING));
        let heard = Arc::clone(&state);
        let handler = move || {
            let first = heard.compare_exchange(ANSWERING, STOPPING, Ordering::SeqCst, Ordering::SeqCst);
            if matches!(first, Err(STOPPING)) || first.is_err() && !io::stdin().is_terminal() {
                process::exit(INTERRUPTED);
            }
        };
        ctrlc::set_handler(handler).map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(Self(state))
    }

    /// Runs `answer`, which is to ask now and then whether it should stop.
    pub(crate) fn during<T>(&self, answer: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
        self.0.store(ANSWERING, Ordering::SeqCst);
        let done = answer(&|| self.0.load(Ordering::SeqCst) == STOPPING);
        self.0.store(WAITING, Ordering::SeqCst);
        done
    }
}
