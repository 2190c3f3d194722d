//! `str(value)` and `repr(value)` of Python for template values.

use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;

use crate::text::python::float_repr;

/// What `{{ value }}` prints: a string as it is, and everything else by its `repr`.
pub(super) fn str(value: &Value) -> String {
    match value.kind() {
        ValueKind::String | ValueKind::Undefined => value.to_string(),
        _ => repr(value),
    }
}

/// What stands for the value inside of a printed list.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(&mut out, value);
    out
}

fn write_repr(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::Number => match float(value) {
            Some(x) => out.push_str(&float_repr(x)),
            None => push(out, value),
        },
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Seq if value.is_tuple() => {
            write_items(out, value, "(", if value.len() == Some(1) { ",)" } else { ")" });
        }
        ValueKind::Seq | ValueKind::Iterable => write_items(out, value, "[", "]"),
        ValueKind::Map if value.try_iter().is_ok() => write_map(out, value),
        _ => push(out, value),
    }
}

/// The value of a floating-point number; `None` for an integer.
pub(super) fn float(value: &Value) -> Option<f64> {
    if value.is_integer() || value.kind() != ValueKind::Number { None } else { f64::try_from(value.clone()).ok() }
}

fn push(out: &mut String, value: &Value) {
    // Writing to a string does not fail.
    let _ = write!(out, "{value}");
}

fn write_items(out: &mut String, value: &Value, open: &str, close: &str) {
    out.push_str(open);
    for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(out, &item);
    }
    out.push_str(close);
}

fn write_map(out: &mut String, value: &Value) {
    out.push('{');
    for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(out, &key);
        out.push_str(": ");
        write_repr(out, &value.get_item(&key).unwrap_or_default());
    }
    out.push('}');
}

/// A string in single quotes, or in double ones where it has single ones only.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable` for one character, close enough: Rust escapes what is a control, a format character, a separator
/// other than the space, private or not assigned, as Python does, and also combining marks, which Python prints.
fn is_printable(c: char) -> bool {
    match c {
        '\'' | '"' => true,
        c if c.is_control() => false,
        c if c.is_whitespace() => c == ' ',
        c => c.escape_debug().len() == 1 || unicode_mark(c),
    }
}

/// Whether `escape_debug` escapes `c` only because it joins to the character before it.
fn unicode_mark(c: char) -> bool {
    ['a', c].iter().collect::<String>().escape_debug().count() == 2
}
