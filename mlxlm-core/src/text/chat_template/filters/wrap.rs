//! The filter `wordwrap`: `textwrap.wrap` on each line.

use crate::text::python::is_space;

use super::super::eval::{Args, Interp};
use super::super::fault::{Result, fail};
use super::super::methods;
use super::super::sink::{Sink, written};
use super::super::value::{Value, defined};
use super::{must_be_text, optional_int};

pub(super) fn wordwrap(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let parameters = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, break_long, separator, on_hyphens] = args.bind("wordwrap", parameters)?;
    defined(&value)?;
    let text = must_be_text(&value, "wordwrap")?;
    let width = optional_int(width, 79)?;
    let break_long = break_long.is_none_or(|flag| flag.truthy());
    let on_hyphens = on_hyphens.is_none_or(|flag| flag.truthy());
    let separator = match separator {
        None | Some(Value::None) => None,
        Some(separator) => Some(must_be_text(&separator, "wordwrap")?),
    };
    if separator.as_ref().is_some_and(|separator| separator.safe) {
        return fail("a safe `wrapstring` is not supported in `wordwrap`");
    }
    let separator = separator.as_ref().map_or("\n", |separator| separator);
    let width = usize::try_from(width).unwrap_or(0);
    if width == 0 {
        return fail("invalid width (must be > 0)");
    }
    let made = written(|out| {
        for (at, (line, _)) in methods::lines(&text)?.into_iter().enumerate() {
            out.push(if at > 0 { separator } else { "" })?;
            wrap(line, width, break_long, on_hyphens, separator, out)?;
        }
        Ok(())
    })?;
    Ok(Value::Str(made))
}

/// White space and words in turns.
fn chunks(line: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| is_space(c) != is_space(first)).unwrap_or(rest.len());
        let (chunk, after) = rest.split_at(length);
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

fn is_blank(chunk: &str) -> bool {
    chunk.chars().all(is_space)
}

fn wrap(line: &str, width: usize, break_long: bool, on_hyphens: bool, separator: &str, out: &mut Sink) -> Result<()> {
    let length = |text: &str| text.chars().count();
    if on_hyphens && length(line) > width && line.contains('-') {
        return fail("`wordwrap` of a long line with hyphens is not supported: set `break_on_hyphens=false`");
    }
    if line.chars().any(|c| is_space(c) && !matches!(c, ' ' | '\t')) {
        return fail("`wordwrap` of unusual white space is not supported");
    }
    let mut left: Vec<&str> = chunks(line);
    left.reverse();
    let mut first = true;
    while !left.is_empty() {
        if !first && left.last().is_some_and(|chunk| is_blank(chunk)) {
            left.pop();
        }
        let mut current: Vec<&str> = Vec::new();
        let mut used = 0;
        while let Some(chunk) = left.last() {
            if used + length(chunk) > width {
                break;
            }
            used += length(chunk);
            current.push(chunk);
            left.pop();
        }
        if let Some(chunk) = left.last().copied()
            && length(chunk) > width
        {
            if break_long {
                let room = width - used;
                let at = chunk.char_indices().nth(room).map_or(chunk.len(), |(at, _)| at);
                let (head, tail) = chunk.split_at(at);
                current.push(head);
                left.pop();
                left.push(tail);
            } else if current.is_empty() {
                current.push(chunk);
                left.pop();
            }
        }
        if current.last().is_some_and(|chunk| is_blank(chunk)) {
            current.pop();
        }
        if current.is_empty() {
            continue;
        }
        out.push(if first { "" } else { separator })?;
        methods::join_into(&current, "", out)?;
        first = false;
    }
    Ok(())
}
