//! `format.format(…)`.

use super::super::access;
use super::super::eval::{Args, Interp, needed};
use super::super::fault::{Fault, Result, fail};
use super::super::markup;
use super::super::sink::Sink;
use super::super::value::{Text, Value, print, repr};
use super::format_value;

/// How deep fields stand in the formats of fields.
const MAX_NESTING: usize = 2;

/// The values of a format, and which of them is next.
struct Fields<'a> {
    args: &'a Args,
    mapping: Option<&'a Value>,
    /// The next one without a number; `None` once a field has a number.
    next: Option<usize>,
    numbered: bool,
    safe: bool,
}

/// `format.format(values)`; a safe format escapes its values.
pub(in super::super) fn format(interp: &mut Interp, format: &Text, args: &Args) -> Result<Value> {
    run(interp, format, Fields { args, mapping: None, next: Some(0), numbered: false, safe: format.safe })
}

/// `format.format_map(mapping)`.
pub(in super::super) fn format_map(interp: &mut Interp, format: &Text, args: Args) -> Result<Value> {
    let [mapping] = args.places("format_map")?;
    let mapping = needed(mapping, "format_map", "mapping")?;
    let none = Args::default();
    let fields = Fields { args: &none, mapping: Some(&mapping), next: Some(0), numbered: false, safe: format.safe };
    run(interp, format, fields)
}

fn run(interp: &mut Interp, format: &Text, mut fields: Fields) -> Result<Value> {
    let mut out = Sink::default();
    write(interp, format, &mut fields, 0, &mut out)?;
    Ok(markup::text(out.into_text()?, format.safe))
}

fn write(interp: &mut Interp, format: &str, fields: &mut Fields, depth: usize, out: &mut Sink) -> Result<()> {
    if depth >= MAX_NESTING {
        return fail("Max string recursion exceeded");
    }
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        out.push(before)?;
        let (brace, after) = brace.split_at(1);
        if after.starts_with(brace) {
            out.push(brace)?;
            rest = after.get(1..).unwrap_or("");
            continue;
        }
        if brace == "}" {
            return fail("Single '}' encountered in format string");
        }
        let end = field_end(after)?;
        field(interp, after.get(..end).unwrap_or(""), fields, depth, out)?;
        rest = after.get(end + 1..).unwrap_or("");
    }
    out.push(rest)
}

/// Where the brace closes that was opened before `text`.
fn field_end(text: &str) -> Result<usize> {
    let mut open = 1;
    let mut in_index = false;
    for (at, c) in text.char_indices() {
        match c {
            '[' if open == 1 => in_index = true,
            ']' => in_index = false,
            '{' if !in_index => open += 1,
            '}' if !in_index => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Ok(at);
        }
    }
    fail("expected '}' before end of string")
}

fn field(interp: &mut Interp, text: &str, fields: &mut Fields, depth: usize, out: &mut Sink) -> Result<()> {
    let name_end = {
        let mut in_index = false;
        text.find(|c| {
            in_index = (in_index || c == '[') && c != ']';
            !in_index && matches!(c, '!' | ':')
        })
        .unwrap_or(text.len())
    };
    let (name, after) = text.split_at(name_end);
    let (conversion, spec) = match after.strip_prefix('!') {
        None => (None, after.strip_prefix(':').unwrap_or("")),
        Some(after) => {
            let kind = after
                .chars()
                .next()
                .ok_or_else(|| Fault::new("end of string while looking for conversion specifier"))?;
            let after = after.get(kind.len_utf8()..).unwrap_or("");
            match after.strip_prefix(':') {
                Some(spec) => (Some(kind), spec),
                None if after.is_empty() => (Some(kind), ""),
                None => return fail("expected ':' after conversion specifier"),
            }
        }
    };
    let value = find(interp, name, fields)?;
    let value = match conversion {
        None => value,
        Some('s') => Value::Str(print(&value)?),
        Some('r') => Value::Str(repr(&value)?),
        Some(other) => return fail(format!("the conversion '!{other}' is not supported")),
    };
    let mut inner = Sink::default();
    write(interp, spec, fields, depth + 1, &mut inner)?;
    let spec = inner.into_string();
    let safe_value = value.as_text().is_some_and(|text| text.safe);
    if fields.safe {
        if safe_value && !spec.is_empty() {
            return fail("Unsupported format specification for Markup.");
        }
        let formatted = if safe_value { print(&value)? } else { markup::escape_text(&format_value(&value, &spec)?)? };
        return out.push(&formatted);
    }
    out.push(&format_value(&value, &spec)?)
}

/// The value of a field: `0`, `name`, `name.attribute`, `name[key]`.
fn find(interp: &mut Interp, name: &str, fields: &mut Fields) -> Result<Value> {
    let first_end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut path) = name.split_at(first_end);
    let mut value = first_value(interp, first, fields)?;
    while !path.is_empty() {
        if let Some(after) = path.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (attribute, rest) = after.split_at(end);
            if attribute.is_empty() {
                return fail("Empty attribute in format string");
            }
            value = access::attribute(interp, &value, attribute)?;
            path = rest;
        } else {
            let (key, rest) = path
                .strip_prefix('[')
                .and_then(|after| after.split_once(']'))
                .ok_or_else(|| Fault::new("Missing ']' in format string"))?;
            if key.is_empty() {
                return fail("Empty attribute in format string");
            }
            let key = match key.parse::<u32>() {
                Ok(at) if key.bytes().all(|b| b.is_ascii_digit()) => Value::Int(at.into()),
                _ => Value::str(key)?,
            };
            value = access::item(interp, &value, &key)?;
            path = rest;
        }
    }
    Ok(value)
}

fn first_value(interp: &mut Interp, name: &str, fields: &mut Fields) -> Result<Value> {
    let is_number = name.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return match fields.mapping {
            Some(mapping) => by_key(interp, mapping, name),
            None => {
                let found = fields.args.by_name.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
                found.ok_or_else(|| Fault::new(format!("the format has no value '{name}'")))
            }
        };
    }
    let at = if name.is_empty() {
        let at = fields.next.filter(|_| !fields.numbered);
        let at =
            at.ok_or_else(|| Fault::new("cannot switch from manual field specification to automatic field numbering"))?;
        fields.next = Some(at + 1);
        at
    } else {
        if fields.next.is_some_and(|next| next > 0) {
            return fail("cannot switch from automatic field numbering to manual field specification");
        }
        fields.numbered = true;
        name.parse().map_err(|_| Fault::new("Too many decimal digits in format string"))?
    };
    let found = fields.args.by_place.get(at).cloned();
    found.ok_or_else(|| Fault::new("Replacement index out of range for positional args tuple"))
}

fn by_key(_interp: &mut Interp, mapping: &Value, name: &str) -> Result<Value> {
    match mapping {
        Value::Dict(dict) => {
            let found = dict.get_str(name)?.cloned();
            found.ok_or_else(|| Fault::new(format!("the mapping has no key '{name}'")))
        }
        other => fail(format!("`format_map` takes a dict, not '{}'", other.type_name())),
    }
}
