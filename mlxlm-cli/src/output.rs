//! Standard output and standard error, either of which may go away while we write.
//!
//! `println!` panics then, so nothing here uses it: [`say!`] fails with a [`Failure`] that ends the command quietly, and
//! [`warn()`] and [`note()`] give up.

use std::fmt::Arguments;
use std::io::{self, IsTerminal, Write};

use crate::failure::{Failure, Result};
use crate::terminal;

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

/// Prints a line that is not part of what was asked for: on the terminal, wherever that is, and never into a file or a pipe.
macro_rules! aside {
    ($($text:tt)*) => { $crate::output::beside(format_args!("{}\n", format_args!($($text)*))) };
}
pub(crate) use aside;

/// As [`aside!`], for text that may end within a line.
pub(crate) fn beside(text: Arguments<'_>) -> Result {
    if io::stdout().is_terminal() {
        return print(text);
    }
    if io::stderr().is_terminal() {
        drop(io::stderr().write_fmt(text));
    }
    Ok(())
}

/// Whether somebody sees what is printed [`beside`] an answer.
pub(crate) fn is_watched() -> bool {
    io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// The columns of that terminal; 80 where there is none.
pub(crate) fn columns() -> usize {
    let size = match io::stdout().is_terminal() {
        true => terminal_size::terminal_size_of(io::stdout()),
        false => terminal_size::terminal_size_of(io::stderr()),
    };
    size.map_or(80, |(width, _)| usize::from(width.0)).max(20)
}

/// Says on standard error what the user should know; a reader who has gone need not.
pub(crate) fn warn(message: impl std::fmt::Display) {
    drop(writeln!(io::stderr(), "{} {}", label("warning:", "33"), terminal::line(&message.to_string())));
}

/// Says on standard error what the program waits for.
pub(crate) fn note(message: impl std::fmt::Display) {
    drop(writeln!(io::stderr(), "note: {}", terminal::line(&message.to_string())));
}

/// A line of a log, on standard error.
pub(crate) fn log(line: &str) {
    drop(writeln!(io::stderr(), "{}", terminal::line(line)));
}

/// Shows a failure on standard error.
pub(crate) fn show(failure: &Failure) {
    let text = failure.to_string();
    let text = text.strip_prefix("error:").map_or(text.clone(), |rest| label("error:", "1;31") + rest);
    drop(writeln!(io::stderr(), "{text}"));
}

/// Whether colours are wanted on a terminal.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The first word of a message, coloured where standard error is a terminal.
fn label(word: &str, code: &str) -> String {
    if io::stderr().is_terminal() && colours() { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// A text in a colour that stands back, on terminals that have one.
pub(crate) fn muted(text: &str) -> String {
    painted(text, "90")
}

/// A text in a colour or weight by its ANSI code, where a terminal shows it.
pub(crate) fn painted(text: &str, code: &str) -> String {
    if is_watched() && colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
