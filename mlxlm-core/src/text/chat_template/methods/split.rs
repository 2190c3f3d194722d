//! The methods of strings that split, and what joins the parts.

use crate::text::python::is_space;

use super::super::eval::Args;
use super::super::fault::{Result, fail};
use super::super::limits;
use super::super::markup;
use super::super::sink::Sink;
use super::super::value::{Text, Value};
use super::str::{integer, string};

/// Parts of a text as a list; safe where the text is.
fn list(parts: Vec<&str>, safe: bool) -> Result<Value> {
    let texts = parts.into_iter().map(|part| Ok(markup::text(Text::new(part)?, safe)));
    Value::list(texts.collect::<Result<_>>()?)
}

/// The words between white space.
pub(in super::super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Writes parts with a separator between them.
pub(in super::super) fn join_into(parts: &[&str], separator: &str, out: &mut Sink) -> Result<()> {
    for (at, part) in parts.iter().enumerate() {
        out.push(if at > 0 { separator } else { "" })?;
        out.push(part)?;
    }
    Ok(())
}

/// `split` and `rsplit`.
pub(super) fn split(text: &Text, from_right: bool, args: Args) -> Result<Value> {
    let [separator, limit] = args.bind("split", ["sep", "maxsplit"])?;
    let limit = limit.map_or(Ok(-1), |limit| integer(&limit))?;
    let limit = if limit < 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
    if matches!(separator, None | Some(Value::None)) {
        limits::check_size(words(text).count().saturating_mul(size_of::<Value>()))?;
    }
    let parts = match separator {
        None | Some(Value::None) if from_right => split_words_right(text, limit),
        None | Some(Value::None) => split_words(text, limit),
        Some(separator) => {
            let separator = string(Some(separator), "split")?;
            if separator.is_empty() {
                return fail("empty separator");
            }
            limits::check_size(text.matches(&*separator).count().saturating_mul(size_of::<Value>()))?;
            let count = limit.saturating_add(1);
            if from_right {
                let mut parts: Vec<&str> = text.rsplitn(count, &*separator).collect();
                parts.reverse();
                parts
            } else {
                text.splitn(count, &*separator).collect()
            }
        }
    };
    list(parts, text.safe)
}

fn split_words(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() < limit { rest.find(is_space) } else { None };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    parts
}

fn split_words_right(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let start = if parts.len() < limit { rest.rfind(is_space) } else { None };
        let start =
            start.map_or(0, |at| at + rest.get(at..).and_then(|space| space.chars().next()).map_or(0, char::len_utf8));
        let (before, word) = rest.split_at(start);
        parts.push(word);
        rest = before.trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// `splitlines`.
pub(super) fn split_lines(text: &Text, keep_ends: bool) -> Result<Value> {
    let parts = lines(text)?.into_iter().map(|(line, end)| if keep_ends { end } else { line }).collect();
    list(parts, text.safe)
}

/// The lines of a text, each without and with its end.
pub(in super::super) fn lines(text: &str) -> Result<Vec<(&str, &str)>> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    limits::check_size(text.matches(is_end).count().saturating_mul(size_of::<Value>()))?;
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let tail = rest.get(at..).unwrap_or("");
        let end = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(1, char::len_utf8) };
        let (line, after) = rest.split_at(at + end);
        lines.push((rest.get(..at).unwrap_or(""), line));
        rest = after;
    }
    if !rest.is_empty() {
        lines.push((rest, rest));
    }
    Ok(lines)
}

/// `partition` and `rpartition`.
pub(super) fn partition(text: &Text, method: &str, args: Args) -> Result<Value> {
    let [separator] = args.places(method)?;
    let separator = string(separator, method)?;
    if separator.is_empty() {
        return fail("empty separator");
    }
    let parts = match method {
        "partition" => text.split_once(&*separator).map_or([text, "", ""], |(a, b)| [a, &*separator, b]),
        _ => text.rsplit_once(&*separator).map_or(["", "", text], |(a, b)| [a, &*separator, b]),
    };
    let texts = parts.into_iter().map(|part| Ok(markup::text(Text::new(part)?, text.safe)));
    Value::tuple(texts.collect::<Result<_>>()?)
}
