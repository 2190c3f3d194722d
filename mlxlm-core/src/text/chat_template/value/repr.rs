//! `str(value)` and `repr(value)`.

use std::fmt::Write;

use crate::text::python::float_repr;

use super::super::fault::{Result, fail};
use super::super::limits;
use super::super::sink::{Sink, written};
use super::{Global, Items, Object, Text, Value, View};

/// What `{{ value }}` prints: a string as it is, and everything else by its `repr`.
pub(in super::super) fn print(value: &Value) -> Result<Text> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        Value::Undefined(_) => Text::new(""),
        other => repr(other),
    }
}

/// `repr(value)`.
pub(in super::super) fn repr(value: &Value) -> Result<Text> {
    written(|out| write_repr(value, out))
}

/// Writes `repr(value)`.
fn write_repr(value: &Value, out: &mut Sink) -> Result<()> {
    write_at(value, out, 0)
}

fn write_at(value: &Value, out: &mut Sink, depth: u32) -> Result<()> {
    // Only a namespace that holds itself gets deeper than values are nested.
    if depth > limits::MAX_NESTING {
        return fail("a value that holds itself cannot be printed");
    }
    match value {
        Value::Undefined(_) => out.push("Undefined"),
        Value::None => out.push("None"),
        Value::Bool(b) => out.push(if *b { "True" } else { "False" }),
        Value::Int(n) => out.push(&n.to_string()),
        Value::Float(x) => out.push(&float_repr(*x)),
        Value::Str(text) if text.safe => {
            out.push("Markup(")?;
            quoted(text, out)?;
            out.push(")")
        }
        Value::Str(text) => quoted(text, out),
        Value::List(items) => between("[", items, "]", out, depth),
        Value::Tuple(items) => between("(", items, if items.len() == 1 { ",)" } else { ")" }, out, depth),
        Value::Dict(dict) => {
            out.push("{")?;
            pairs(dict.pairs(), out, depth)?;
            out.push("}")
        }
        Value::View(view, dict) => view_at(*view, dict.pairs(), out, depth),
        Value::Range(range) if range.step == 1 => out.push(&format!("range({}, {})", range.start, range.stop)),
        Value::Range(range) => out.push(&format!("range({}, {}, {})", range.start, range.stop, range.step)),
        Value::Iter(_) => fail("a generator has no text of its own: make a list of it"),
        Value::Object(object) => object_at(object, out, depth),
    }
}

fn between(open: &str, items: &Items, close: &str, out: &mut Sink, depth: u32) -> Result<()> {
    out.push(open)?;
    for (at, item) in items.iter().enumerate() {
        out.push(if at > 0 { ", " } else { "" })?;
        write_at(item, out, depth + 1)?;
    }
    out.push(close)
}

fn pairs(pairs: &[(Value, Value)], out: &mut Sink, depth: u32) -> Result<()> {
    for (at, (key, value)) in pairs.iter().enumerate() {
        out.push(if at > 0 { ", " } else { "" })?;
        write_at(key, out, depth + 1)?;
        out.push(": ")?;
        write_at(value, out, depth + 1)?;
    }
    Ok(())
}

fn view_at(view: View, pairs: &[(Value, Value)], out: &mut Sink, depth: u32) -> Result<()> {
    out.push(match view {
        View::Keys => "dict_keys([",
        View::Values => "dict_values([",
        View::Items => "dict_items([",
    })?;
    for (at, (key, value)) in pairs.iter().enumerate() {
        out.push(if at > 0 { ", " } else { "" })?;
        match view {
            View::Keys => write_at(key, out, depth + 1)?,
            View::Values => write_at(value, out, depth + 1)?,
            View::Items => {
                out.push("(")?;
                write_at(key, out, depth + 1)?;
                out.push(", ")?;
                write_at(value, out, depth + 1)?;
                out.push(")")?;
            }
        }
    }
    out.push("])")
}

fn object_at(object: &Object, out: &mut Sink, depth: u32) -> Result<()> {
    match object {
        Object::Namespace(fields) => {
            out.push("<Namespace {")?;
            pairs(fields.borrow().pairs(), out, depth)?;
            out.push("}>")
        }
        Object::Macro { name: Some(name), .. } => {
            out.push("<Macro ")?;
            quoted(name, out)?;
            out.push(">")
        }
        Object::Macro { name: None, .. } => out.push("<Macro anonymous>"),
        Object::Loop(state) if state.known_length().is_some() => {
            let length = state.known_length().unwrap_or(0);
            out.push(&format!("<LoopContext {}/{length}>", state.index()))
        }
        Object::Global(Global::Dict | Global::Namespace | Global::Cycler | Global::Joiner) => {
            fail("a class has no text of its own here")
        }
        other => fail(format!("a value of type {} has no text of its own", other.type_name())),
    }
}

/// A string in single quotes, or in double ones where it has single ones only.
fn quoted(text: &str, out: &mut Sink) -> Result<()> {
    let quote = if text.contains('\'') && !text.contains('"') { "\"" } else { "'" };
    out.push(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\\' => out.push("\\\\")?,
            '\'' if quote == "'" => out.push("\\'")?,
            c if is_printable(c) => out.push_char(c)?,
            c => {
                let mut escaped = String::new();
                let code = u32::from(c);
                // Writing to a string does not fail.
                let _ = match code {
                    0..=0xff => write!(escaped, "\\x{code:02x}"),
                    0x100..=0xffff => write!(escaped, "\\u{code:04x}"),
                    _ => write!(escaped, "\\U{code:08x}"),
                };
                out.push(&escaped)?;
            }
        }
    }
    out.push(quote)
}

/// `str.isprintable` for one character, close enough: Rust escapes what is a control, a format character, a separator
/// other than the space, private or not assigned, as Python does, and also combining marks, which Python prints.
pub(in super::super) fn is_printable(c: char) -> bool {
    match c {
        '\'' | '"' | '\\' => true,
        c if c.is_control() => false,
        c if c.is_whitespace() => c == ' ',
        c => c.escape_debug().len() == 1 || joins(c),
    }
}

/// Whether `escape_debug` escapes `c` only because it joins to the character before it.
fn joins(c: char) -> bool {
    ['a', c].iter().collect::<String>().escape_debug().count() == 2
}
