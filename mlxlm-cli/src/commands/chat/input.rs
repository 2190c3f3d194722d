//! What the user types: edited and remembered at a terminal, as it comes from a pipe.
//!
//! What was typed ahead waits in the terminal or in the editor's buffer until it is its turn.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;

use mlxlm_core::io as files;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Cmd, Config, Editor, EventHandler, Helper, KeyCode, KeyEvent, Modifiers};

use super::words::{goes_on, joined};
use crate::failure::{Failure, Result};
use crate::output::{aside, muted, painted, warn};

/// Where lines come from.
pub(super) enum Lines {
    Terminal(Box<Typed>),
    Pipe,
}

impl Lines {
    pub(super) fn new() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        Ok(Self::Terminal(Box::new(Typed::new().map_err(failed)?)))
    }

    /// Whether somebody types.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// What is said next, of several lines if they belong together; none at the end of the input.
    pub(super) fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Terminal(typed) => typed.next(),
            Self::Pipe => piped(&mut io::stdin().lock()).map_err(|error| Failure::input(&error)),
        }
    }
}

fn failed(error: ReadlineError) -> Failure {
    match error {
        ReadlineError::Io(error) => Failure::input(&error),
        error => Failure::new(format!("cannot read from the terminal: {error}")),
    }
}

/// A line editor with a history that outlives it.
pub(super) struct Typed {
    editor: Editor<Rules, FileHistory>,
    history: Option<PathBuf>,
}

impl Typed {
    fn new() -> rustyline::Result<Self> {
        const MOST_LINES: usize = 1000;
        // The prompt belongs on the terminal, also where the answers go to a file.
        let behavior = if io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder().behavior(behavior).max_history_size(MOST_LINES)?.build();
        let remembered = FileHistory::with_config(&config);
        let mut editor = Editor::with_history(config, remembered)?;
        editor.set_helper(Some(Rules));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), EventHandler::Simple(Cmd::Newline));
        let history = history();
        if let Some(file) = &history {
            // A history that cannot be read is none.
            drop(editor.load_history(file));
        }
        Ok(Self { editor, history })
    }

    fn next(&mut self) -> Result<Option<String>> {
        loop {
            match self.editor.readline(&("› ", painted("›", "1;35") + " ")) {
                Ok(typed) => {
                    self.remember(&typed);
                    return Ok(Some(joined(&typed)));
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) => aside!("  {}", muted("q or Ctrl-D ends the conversation"))?,
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => warn(NOT_UTF8),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Adds to the history at once, as a chat may end in many ways. It is a comfort: what it does not take is no reason to stop.
    fn remember(&mut self, typed: &str) {
        if matches!(self.editor.add_history_entry(typed), Ok(true))
            && let Some(file) = &self.history
        {
            drop(self.editor.append_history(file));
        }
    }
}

/// The file of the history, in a folder that only its owner enters; the editor lets only the owner read it.
fn history() -> Option<PathBuf> {
    let set = |folder: &PathBuf| folder.is_absolute();
    let named = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(set);
    let base = named.or_else(|| Some(std::env::home_dir().filter(set)?.join(".local/state")))?;
    let folder = base.join("mlxlm");
    files::create_dir_all(&base).and_then(|()| files::create_private_dir(&folder)).ok()?;
    Some(folder.join("chat_history"))
}

/// When a line is whole.
struct Rules;

impl Validator for Rules {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if goes_on(typed.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Rules {
    type Candidate = String;
}

impl Hinter for Rules {
    type Hint = String;
}

impl Highlighter for Rules {}

impl Helper for Rules {}

const NOT_UTF8: &str = "a line of the input is not UTF-8; what is not is replaced by U+FFFD";

/// The next lines of a pipe that belong together.
fn piped(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let Some(mut text) = read_line(input)? else { return Ok(None) };
    while goes_on(&text)
        && let Some(line) = read_line(input)?
    {
        text.extend(["\n", &line]);
    }
    Ok(Some(joined(&text)))
}

/// The next line of a pipe, without its end. Bytes that are no text cost a warning and not the conversation.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    const LONGEST_BYTES: u64 = 16 << 20;
    let mut bytes = Vec::new();
    if input.by_ref().take(LONGEST_BYTES).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let end = bytes.iter().rev().take_while(|byte| b"\r\n".contains(byte)).count();
    bytes.truncate(bytes.len() - end);
    Ok(Some(String::from_utf8(bytes).unwrap_or_else(|error| {
        warn(NOT_UTF8);
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_pipe_come_without_their_ends() {
        let mut input = &b"one\r\n\ntw\xffo\nthree\\\nfour\n\"\"\"\nfive\nsix\"\"\"\nseven\\"[..];
        let lines = std::iter::from_fn(|| piped(&mut input).unwrap());
        assert_eq!(lines.collect::<Vec<_>>(), ["one", "", "tw\u{fffd}o", "three\nfour", "five\nsix", "seven\\"]);
    }
}
