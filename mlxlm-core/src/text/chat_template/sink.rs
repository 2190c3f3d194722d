//! The text that an operation writes, within its bounds.

use super::fault::Result;
use super::limits;
use super::value::{Text, Value};

/// A text that grows up to the largest result.
#[derive(Debug, Default)]
pub(super) struct Sink {
    text: String,
}

impl Sink {
    pub(super) fn push(&mut self, part: &str) -> Result<()> {
        limits::check_size(self.text.len() + part.len())?;
        limits::pass(part.len())?;
        self.text.push_str(part);
        Ok(())
    }

    pub(super) fn push_char(&mut self, c: char) -> Result<()> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// The part, `count` times.
    pub(super) fn fill(&mut self, part: &str, count: usize) -> Result<()> {
        let bytes = part.len().saturating_mul(count);
        limits::check_size(self.text.len().saturating_add(bytes))?;
        limits::pass(bytes)?;
        for _ in 0..if part.is_empty() { 0 } else { count } {
            self.text.push_str(part);
        }
        Ok(())
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }

    pub(super) fn into_text(self) -> Result<Text> {
        Text::new(self.text)
    }

    pub(super) fn into_value(self) -> Result<Value> {
        Ok(Value::Str(self.into_text()?))
    }
}

/// A text written with the sink that `write` gets.
pub(super) fn written(write: impl FnOnce(&mut Sink) -> Result<()>) -> Result<Text> {
    let mut sink = Sink::default();
    write(&mut sink)?;
    sink.into_text()
}
