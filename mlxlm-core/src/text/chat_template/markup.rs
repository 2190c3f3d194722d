//! HTML: escaping and `Markup`, as markupsafe does it.

use super::fault::{Result, fail};
use super::sink::{Sink, written};
use super::value::{Text, Value, print};

/// A text as a value, safe or not.
pub(super) fn text(text: Text, safe: bool) -> Value {
    Value::Str(text.marked(safe))
}

/// `escape(value)`: safe texts stay as they are.
pub(super) fn escape(value: &Value) -> Result<Text> {
    let text = print(value)?;
    if text.safe { Ok(text) } else { escape_text(&text) }
}

/// The text with `& < > ' "` escaped.
pub(super) fn escape_text(text: &str) -> Result<Text> {
    let escaped = written(|out| escape_into(text, out))?;
    Ok(escaped.marked(true))
}

/// Writes the text with `& < > ' "` escaped.
pub(super) fn escape_into(text: &str, out: &mut Sink) -> Result<()> {
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '\'', '"']) {
        let (before, after) = rest.split_at(at);
        out.push(before)?;
        let escaped = match after.as_bytes().first() {
            Some(b'&') => "&amp;",
            Some(b'<') => "&lt;",
            Some(b'>') => "&gt;",
            Some(b'\'') => "&#39;",
            _ => "&#34;",
        };
        out.push(escaped)?;
        rest = after.get(1..).unwrap_or("");
    }
    out.push(rest)
}

/// `Markup(value)`: the text of a value, taken as safe.
pub(super) fn mark(value: &Value) -> Result<Value> {
    Ok(text(print(value)?, true))
}

/// What `&name;` stands for in the HTML that escaping makes; other entities are refused.
fn entity(name: &str) -> Result<Option<char>> {
    if let Some(code) = name.strip_prefix('#') {
        let code = match code.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => code.parse(),
        };
        return match code.ok().and_then(char::from_u32) {
            Some(c) if u32::from(c) > 31 && !('\u{7f}'..='\u{9f}').contains(&c) => Ok(Some(c)),
            _ => fail(format!("the HTML entity `&{name};` is not supported")),
        };
    }
    match name {
        "amp" => Ok(Some('&')),
        "lt" => Ok(Some('<')),
        "gt" => Ok(Some('>')),
        "quot" => Ok(Some('"')),
        "apos" => Ok(Some('\'')),
        "nbsp" => Ok(Some('\u{a0}')),
        _ if name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            fail(format!("the HTML entity `&{name};` is not supported"))
        }
        _ => Ok(None),
    }
}

/// `html.unescape(text)`, for the entities that escaping makes.
pub(super) fn unescape(text: &str) -> Result<Text> {
    written(|out| {
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('&') {
            out.push(before)?;
            let length = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '#').unwrap_or(after.len());
            let (name, tail) = after.split_at(length);
            let ended = tail.starts_with(';');
            if !name.is_empty() && !ended && entity(name).is_ok_and(|found| found.is_none()) {
                out.push("&")?;
                rest = after;
                continue;
            }
            if !name.is_empty() && !ended {
                return fail(format!("the HTML entity `&{name}` without a semicolon is not supported"));
            }
            match entity(name)? {
                Some(c) => {
                    out.push_char(c)?;
                    rest = tail.get(1..).unwrap_or("");
                }
                None => {
                    out.push("&")?;
                    rest = after;
                }
            }
        }
        out.push(rest)
    })
}

/// `Markup(text).striptags()`.
pub(super) fn strip_tags(text: &str) -> Result<Text> {
    let stripped = written(|out| {
        let mut rest = text;
        while let Some((before, tag)) = rest.split_once('<') {
            let end = match tag.strip_prefix("!--") {
                Some(comment) => comment.find("-->").map(|at| at + 6),
                None => tag.find('>').map(|at| at + 1),
            };
            let Some(end) = end else { break };
            out.push(before)?;
            rest = tag.get(end..).unwrap_or("");
        }
        out.push(rest)
    })?;
    let words: Vec<&str> = super::methods::words(&stripped).collect();
    unescape(&written(|out| super::methods::join_into(&words, " ", out))?)
}
