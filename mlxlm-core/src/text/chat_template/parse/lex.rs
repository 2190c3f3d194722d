//! The words of a template: text, tags and what is in them.
//!
//! Reference: Jinja2's `lexer.py`, with `trim_blocks` and `lstrip_blocks`.

use crate::text::python::is_space;

use super::super::fault::{Fault, Result, fail};
use super::literals;

/// A word and its line, from 1.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// The kinds of words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Text(String),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Sign(&'static str),
    End,
}

/// The signs, the longer ones first.
const SIGNS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",",
];

/// Splits a template into words.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    // One line end at the end of the template is none of its text.
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_start: true, tokens: Vec::new() };
    lexer.run().map_err(|fault| fault.at(lexer.line))?;
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether what was read last ended a line.
    line_start: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or("")
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    /// Moves on, and counts the lines that are passed.
    fn pass(&mut self, bytes: usize) {
        let passed = self.source.get(self.at..self.at + bytes).unwrap_or("");
        self.line_start = passed.ends_with('\n');
        self.at += bytes;
        self.line += passed.matches('\n').count();
    }

    fn run(&mut self) -> Result<()> {
        while !self.rest().is_empty() {
            let rest = self.rest();
            let Some(start) = find_tag(rest) else {
                self.push(Kind::Text(rest.to_owned()));
                return Ok(());
            };
            let (text, tag) = rest.split_at(start);
            let kind = tag.as_bytes().get(1).copied();
            let sign = tag.get(2..3).filter(|sign| matches!(*sign, "-" | "+")).unwrap_or("");
            let kept = self.stripped(text, sign, kind != Some(b'{'));
            if !kept.is_empty() {
                self.push(Kind::Text(kept.to_owned()));
            }
            self.pass(start);
            match kind {
                Some(b'#') => self.comment(2 + sign.len())?,
                Some(b'{') => {
                    self.push(Kind::PrintBegin);
                    self.pass(2 + sign.len());
                    self.inside("}}", Kind::PrintEnd)?;
                }
                _ => match raw_begin(tag) {
                    Some(length) => self.raw(length)?,
                    None => {
                        self.push(Kind::BlockBegin);
                        self.pass(2 + sign.len());
                        self.inside("%}", Kind::BlockEnd)?;
                    }
                },
            }
        }
        Ok(())
    }

    /// The text before a tag, without the white space that the tag takes away.
    fn stripped<'t>(&self, text: &'t str, sign: &str, is_block: bool) -> &'t str {
        if sign == "-" {
            return text.trim_end_matches(is_space);
        }
        let start = text.rfind('\n').map_or(0, |at| at + 1);
        let (before, last) = text.split_at(start);
        let alone = (start > 0 || self.line_start) && last.chars().all(is_space);
        if sign != "+" && is_block && alone { before } else { text }
    }

    fn comment(&mut self, begin: usize) -> Result<()> {
        let body = self.rest().get(begin..).unwrap_or("");
        let Some(end) = body.find("#}") else { return fail("Missing end of comment tag") };
        let sign = body.get(..end).and_then(|body| body.chars().next_back());
        let tail = match sign {
            Some('-') => spaces(body.get(end + 2..).unwrap_or("")),
            Some('+') => 0,
            _ => usize::from(body.get(end + 2..).is_some_and(|after| after.starts_with('\n'))),
        };
        self.pass(begin + end + 2 + tail);
        Ok(())
    }

    fn raw(&mut self, begin: usize) -> Result<()> {
        self.pass(begin);
        let body = self.rest();
        let mut from = 0;
        while let Some(at) = body.get(from..).and_then(|rest| rest.find("{%")).map(|at| from + at) {
            let tag = body.get(at..).unwrap_or("");
            if let Some((sign, length)) = raw_end(tag) {
                let text = body.get(..at).unwrap_or("");
                let kept = self.stripped(text, sign, true);
                if !kept.is_empty() {
                    self.push(Kind::Text(kept.to_owned()));
                }
                self.pass(at + length);
                return Ok(());
            }
            from = at + 2;
        }
        fail("Missing end of raw directive")
    }

    /// The words of a tag up to its end.
    fn inside(&mut self, close: &'static str, end: Kind) -> Result<()> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Ok(()) };
            if open.is_empty()
                && let Some(length) = tag_end(rest, close)
            {
                self.push(end);
                self.pass(length);
                return Ok(());
            }
            if is_space(first) {
                self.pass(spaces(rest));
            } else if let Some((kind, length)) = self.number(rest)? {
                self.push(kind);
                self.pass(length);
            } else if first.is_alphanumeric() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                let name = rest.get(..length).unwrap_or("");
                if !first.is_alphabetic() && first != '_' {
                    return fail("Invalid character in identifier");
                }
                self.push(Kind::Name(name.to_owned()));
                self.pass(length);
            } else if first == '\'' || first == '"' {
                let length =
                    string_length(rest, first).ok_or_else(|| Fault::new(format!("unexpected char {first:?}")))?;
                self.push(Kind::Str(literals::unescape(rest.get(1..length - 1).unwrap_or(""))?));
                self.pass(length);
            } else {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
                let sign = *sign.ok_or_else(|| Fault::new(format!("unexpected char {first:?}")))?;
                balance(&mut open, sign)?;
                self.push(Kind::Sign(sign));
                self.pass(sign.len());
            }
        }
    }

    /// The number at the start of `rest`. After a dot there is no fraction: `a.0.1` is two steps.
    fn number(&self, rest: &str) -> Result<Option<(Kind, usize)>> {
        if !rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        let after_dot = self.at > 0 && self.source.as_bytes().get(self.at - 1) == Some(&b'.');
        if !after_dot && let Some(length) = literals::float_length(rest) {
            let value = rest.get(..length).unwrap_or("").replace('_', "").parse();
            let value = value.map_err(|_| Fault::new("a number that cannot be read"))?;
            return Ok(Some((Kind::Float(value), length)));
        }
        let (value, length) = literals::integer(rest)?;
        Ok(Some((Kind::Int(value), length)))
    }
}

/// Where the next tag begins.
fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let next = |at: usize| matches!(bytes.get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').map(|(at, _)| at).find(|at| next(*at))
}

/// The length of the white space at the start.
fn spaces(text: &str) -> usize {
    text.len() - text.trim_start_matches(is_space).len()
}

/// The length of the end of a tag and of what it takes away.
fn tag_end(rest: &str, close: &str) -> Option<usize> {
    if let Some(after) = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(close)) {
        return Some(3 + spaces(after));
    }
    let is_block = close == "%}";
    if is_block && rest.starts_with("+%}") {
        return Some(3);
    }
    let after = rest.strip_prefix(close)?;
    Some(2 + usize::from(is_block && after.starts_with('\n')))
}

/// The length of `{% raw %}`, with the white space that it takes away.
fn raw_begin(tag: &str) -> Option<usize> {
    let inner = tag.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start_matches(is_space);
    let after = inner.strip_prefix("raw")?.trim_start_matches(is_space);
    let left = match after.strip_prefix("-%}") {
        Some(left) => left.trim_start_matches(is_space),
        None => after.strip_prefix("%}")?,
    };
    Some(tag.len() - left.len())
}

/// The sign and the length of `{% endraw %}`, with the white space that it takes away.
fn raw_end(tag: &str) -> Option<(&str, usize)> {
    let inner = tag.strip_prefix("{%")?;
    let sign = inner.get(..1).filter(|sign| matches!(*sign, "-" | "+")).unwrap_or("");
    let inner = inner.get(sign.len()..)?.trim_start_matches(is_space);
    let after = inner.strip_prefix("endraw")?.trim_start_matches(is_space);
    let end = tag_end(after, "%}")?;
    Some((sign, tag.len() - after.len() + end))
}

/// The length of a quoted string, its quotes and all.
fn string_length(rest: &str, quote: char) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Keeps the brackets that are open, in which no tag ends.
fn balance(open: &mut Vec<&'static str>, sign: &'static str) -> Result<()> {
    match sign {
        "{" => open.push("}"),
        "(" => open.push(")"),
        "[" => open.push("]"),
        "}" | ")" | "]" => match open.pop() {
            None => return fail(format!("unexpected '{sign}'")),
            Some(expected) if expected != sign => return fail(format!("unexpected '{sign}', expected '{expected}'")),
            Some(_) => {}
        },
        _ => {}
    }
    Ok(())
}
