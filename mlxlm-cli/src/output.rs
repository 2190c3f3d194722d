//! Standard output and standard error, either of which may go away while we write.
//!
//! `println!` panics then, so nothing here uses it: [`say!`] fails with a [`Failure`] that ends the command quietly, and
//! [`warn()`] gives up.

use std::fmt::Arguments;
use std::io::{self, IsTerminal, Write};

use crate::failure::{Failure, Result};

/// Prints a line.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}
pub(crate) use say;

/// Prints text that may end within a line, at once.
pub(crate) fn print(text: Arguments<'_>) -> Result {
    let mut out = io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
}

/// Tells the user on standard error what they should know; a reader who has gone need not.
pub(crate) fn warn(message: impl std::fmt::Display) {
    drop(writeln!(io::stderr(), "warning: {message}"));
}

/// Shows a failure on standard error.
pub(crate) fn show(failure: &Failure) {
    drop(writeln!(io::stderr(), "{failure}"));
}

/// A text in a colour that stands back, on terminals that have one.
pub(crate) fn muted(text: &str) -> String {
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if colours { format!("\x1b[90m{text}\x1b[0m") } else { text.to_owned() }
}
