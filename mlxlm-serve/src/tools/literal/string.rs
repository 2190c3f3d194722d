//! Strings: in quotes, with the escapes of JSON and Python, or raw between two markers.

use super::super::buffer::PieceEnd;
use super::super::io::{Io, Read, Stop};
use super::super::out::Sink;
use super::Syntax;

/// Reads a string, if one begins here, and says so.
pub(super) async fn read(io: &Io, syntax: Syntax, sink: &mut Sink<'_>) -> Read<bool> {
    if let Syntax::Marked(mark) = syntax
        && io.eat(&[mark]).await.is_some()
    {
        between(io, mark, sink).await?;
        return Ok(true);
    }
    let quote = io.peek().await?;
    if !matches!(quote, '"' | '\'') {
        return Ok(false);
    }
    io.next().await?;
    io.write(sink, "\"");
    if syntax == Syntax::Python && io.eat(&[if quote == '"' { "\"\"" } else { "''" }]).await.is_some() {
        in_quotes(io, Closing::Triple(quote), sink).await?;
    } else if syntax == Syntax::Python {
        in_quotes(io, Closing::Fitting(quote), sink).await?;
    } else {
        in_quotes(io, Closing::First(quote), sink).await?;
    }
    io.write(sink, "\"");
    Ok(true)
}

/// Raw text up to the marker.
async fn between(io: &Io, mark: &str, sink: &mut Sink<'_>) -> Read {
    io.write(sink, "\"");
    loop {
        let piece = io.until(&[mark]).await;
        io.write_escaped(sink, &piece.text);
        match piece.end {
            PieceEnd::More => {}
            PieceEnd::Mark(_) => break,
            PieceEnd::End => return Err(Stop::End),
        }
    }
    io.write(sink, "\"");
    Ok(())
}

/// What ends a string.
#[derive(Clone, Copy)]
enum Closing {
    /// The first quote of its kind.
    First(char),
    /// The first quote of its kind after which something comes that may follow a string. Templates put strings between
    /// quotes as they are, so that there are others inside.
    Fitting(char),
    /// Three quotes.
    Triple(char),
}

impl Closing {
    fn quote(self) -> char {
        match self {
            Self::First(quote) | Self::Fitting(quote) | Self::Triple(quote) => quote,
        }
    }
}

/// The content of a string and its end.
async fn in_quotes(io: &Io, closing: Closing, sink: &mut Sink<'_>) -> Read {
    // The first half of a character that is written as two escapes.
    let mut high = None;
    loop {
        let plain = io.span(|c| !matches!(c, '"' | '\'' | '\\')).await;
        if !plain.is_empty() {
            lone(io, &mut high, sink);
            io.write_escaped(sink, &plain);
        }
        let c = io.next().await?;
        if c == '\\' {
            unescape(io, &mut high, sink).await?;
            continue;
        }
        lone(io, &mut high, sink);
        match c {
            c if c == closing.quote() => match closing {
                Closing::First(_) => return Ok(()),
                Closing::Triple(quote) => {
                    if io.eat(&[if quote == '"' { "\"\"" } else { "''" }]).await.is_some() {
                        return Ok(());
                    }
                    io.write_escaped(sink, c.encode_utf8(&mut [0; 4]));
                }
                Closing::Fitting(_) => {
                    let space = io.word(char::is_whitespace).await;
                    if matches!(io.peek().await, Err(_) | Ok(',' | ')' | ']' | '}' | ':')) {
                        return Ok(());
                    }
                    io.write_escaped(sink, c.encode_utf8(&mut [0; 4]));
                    io.write_escaped(sink, &space);
                }
            },
            c => io.write_escaped(sink, c.encode_utf8(&mut [0; 4])),
        }
    }
}

/// Half a character that nothing completes is written as the character for what cannot be read.
fn lone(io: &Io, high: &mut Option<u32>, sink: &mut Sink<'_>) {
    if high.take().is_some() {
        io.write(sink, "\u{fffd}");
    }
}

/// What follows a backslash. An escape that neither JSON nor Python has stands for itself.
async fn unescape(io: &Io, high: &mut Option<u32>, sink: &mut Sink<'_>) -> Read {
    let c = io.next().await?;
    let digits = match c {
        'u' => 4,
        'U' => 8,
        'x' => 2,
        _ => 0,
    };
    let mut text = String::new();
    for _ in 0..digits {
        match io.peek().await? {
            digit if digit.is_ascii_hexdigit() => text.push(io.next().await?),
            _ => break,
        }
    }
    let code = u32::from_str_radix(&text, 16).ok().filter(|_| digits > 0 && text.len() == digits);
    if let (Some(first), Some(code @ 0xdc00..0xe000)) = (*high, code) {
        *high = None;
        let c = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (code - 0xdc00)).unwrap_or('\u{fffd}');
        io.write_escaped(sink, c.encode_utf8(&mut [0; 4]));
        return Ok(());
    }
    lone(io, high, sink);
    match (c, code) {
        (_, Some(code @ 0xd800..0xdc00)) => *high = Some(code),
        (_, Some(code)) => {
            io.write_escaped(sink, char::from_u32(code).unwrap_or('\u{fffd}').encode_utf8(&mut [0; 4]));
        }
        ('n', _) => io.write(sink, "\\n"),
        ('t', _) => io.write(sink, "\\t"),
        ('r', _) => io.write(sink, "\\r"),
        ('b', _) => io.write(sink, "\\b"),
        ('f', _) => io.write(sink, "\\f"),
        ('"' | '\'' | '\\' | '/', _) => io.write_escaped(sink, c.encode_utf8(&mut [0; 4])),
        _ => {
            io.write(sink, "\\\\");
            io.write_escaped(sink, c.encode_utf8(&mut [0; 4]));
            io.write_escaped(sink, &text);
        }
    }
    Ok(())
}

/// Appends text as it stands within a string of JSON.
pub(in super::super) fn escape(text: &str, json: &mut String) {
    use std::fmt::Write;
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            // Writing to a string does not fail.
            '\0'..='\u{1f}' => drop(write!(json, "\\u{:04x}", c as u32)),
            _ => json.push(c),
        }
    }
}

/// Text as a string of JSON.
pub(in super::super) fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    escape(text, &mut json);
    json.push('"');
    json
}
