//! What the terminal does with keys while nobody reads them: while an answer is written, they are kept for the next line, and not shown
//! in the middle of it.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// The terminal's settings before they were changed.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps keys unseen as long as it lives. Ctrl-C and Ctrl-Z work as ever, and throw nothing away that was typed.
#[derive(Debug)]
pub(crate) struct Unseen;

impl Unseen {
    /// Begins, if standard input is a terminal; one that cannot be set stays as it is.
    pub(crate) fn begin() -> Self {
        let stdin = io::stdin();
        if stdin.is_terminal()
            && let Ok(before) = tcgetattr(&stdin)
        {
            let mut unseen = before.clone();
            // Without lines of the terminal's own, what is typed of one so far is there for the line editor as well.
            unseen.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
            unseen.local_flags.insert(LocalFlags::NOFLSH);
            if tcsetattr(&stdin, SetArg::TCSANOW, &unseen).is_ok() {
                *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            }
        }
        Self
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its settings back; for whoever ends the process in the middle of an answer.
pub(crate) fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that has gone needs none.
        let _gone = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    }
}
