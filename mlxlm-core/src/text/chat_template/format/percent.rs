//! `format % values`.

use super::super::eval::Interp;
use super::super::fault::{Fault, Result, fail};
use super::super::limits;
use super::super::markup;
use super::super::ops::as_float;
use super::super::sink::{Sink, written};
use super::super::value::{Dict, Text, Value, defined, print, repr};
use super::number::{self, FloatForm};
use super::spec::in_width;

/// One conversion: `%[(key)][flags][width][.precision]type`.
#[derive(Debug, Default)]
struct Conversion {
    left: bool,
    zero: bool,
    sign: &'static str,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// Where the values come from.
enum Values<'v> {
    Tuple(std::slice::Iter<'v, Value>),
    /// One value, which a mapping can be too.
    One(Option<&'v Value>),
}

impl<'v> Values<'v> {
    fn next(&mut self) -> Result<&'v Value> {
        let next = match self {
            Self::Tuple(items) => items.next(),
            Self::One(value) => value.take(),
        };
        next.ok_or_else(|| Fault::new("not enough arguments for format string"))
    }
}

/// `format % values`; a safe format escapes its values.
pub(in super::super) fn format(_interp: &mut Interp, format: &Text, values: &Value) -> Result<Value> {
    let mapping = if let Value::Dict(dict) = values { Some(&**dict) } else { None };
    let mut left = match values {
        Value::Tuple(items) => Values::Tuple(items.iter()),
        value => Values::One(Some(value)),
    };
    let text = written(|out| {
        let mut rest = &**format;
        while let Some((before, after)) = rest.split_once('%') {
            out.push(before)?;
            rest = conversion(after, mapping, &mut left, format.safe, out)?;
        }
        out.push(rest)
    })?;
    let unused = match left {
        Values::Tuple(mut items) => items.next().is_some(),
        // A value that has items may be left over; others may not.
        Values::One(Some(value)) => {
            !matches!(value, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_))
        }
        Values::One(None) => false,
    };
    if unused {
        return fail("not all arguments converted during string formatting");
    }
    Ok(markup::text(text, format.safe))
}

/// Writes one conversion, and gives the rest of the format.
fn conversion<'t, 'v>(
    format: &'t str,
    mapping: Option<&'v Dict>,
    values: &mut Values<'v>,
    safe: bool,
    out: &mut Sink,
) -> Result<&'t str> {
    let mut rest = format;
    let mut keyed = None;
    if let Some(after) = rest.strip_prefix('(') {
        let (key, after) = key(after)?;
        let dict = mapping.ok_or_else(|| Fault::new("format requires a mapping"))?;
        keyed = Some(dict.get_str(key)?.ok_or_else(|| Fault::new(format!("the key '{key}' is not in the mapping")))?);
        // What has been taken by a key counts as used.
        *values = Values::One(None);
        rest = after;
    }
    let mut conversion = Conversion::default();
    flags(&mut rest, &mut conversion);
    conversion.width = match size(&mut rest, values)? {
        Some(width) if width < 0 => {
            conversion.left = true;
            bounded(width.saturating_neg())?
        }
        width => bounded(width.unwrap_or(0))?,
    };
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        conversion.precision = Some(bounded(size(&mut rest, values)?.unwrap_or(0).max(0))?);
    }
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    let kind = rest.chars().next().ok_or_else(|| Fault::new("incomplete format"))?;
    rest = rest.get(kind.len_utf8()..).unwrap_or("");
    if kind == '%' {
        out.push("%")?;
        return Ok(rest);
    }
    let value = match keyed {
        Some(value) => value,
        None => values.next()?,
    };
    out.push(&convert(kind, value, &conversion, safe)?)?;
    Ok(rest)
}

/// The key in round brackets, which may be nested.
fn key(text: &str) -> Result<(&str, &str)> {
    let mut open = 1;
    for (at, c) in text.char_indices() {
        open += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if open == 0 {
            return Ok((text.get(..at).unwrap_or(""), text.get(at + 1..).unwrap_or("")));
        }
    }
    fail("incomplete format key")
}

fn flags(rest: &mut &str, conversion: &mut Conversion) {
    while let Some(flag) = rest.chars().next() {
        match flag {
            '-' => conversion.left = true,
            '0' => conversion.zero = true,
            '+' => conversion.sign = "+",
            ' ' if conversion.sign.is_empty() => conversion.sign = " ",
            ' ' => {}
            '#' => conversion.alternate = true,
            _ => return,
        }
        *rest = rest.get(1..).unwrap_or("");
    }
}

/// A width or a precision: a number, or `*` for one of the values.
fn size(rest: &mut &str, values: &mut Values) -> Result<Option<i128>> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        let value = values.next()?;
        return value.as_int().map(Some).ok_or_else(|| Fault::new("* wants int"));
    }
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at(length);
    *rest = after;
    match digits {
        "" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| Fault::new("width too big")),
    }
}

fn bounded(size: i128) -> Result<usize> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    limits::check_size(size)?;
    Ok(size)
}

fn convert(kind: char, value: &Value, conversion: &Conversion, safe: bool) -> Result<Text> {
    if safe && matches!(kind, 'a' | 'c' | 'o' | 'x' | 'X') {
        return fail(format!("`%{kind}` in a safe string is not supported"));
    }
    match kind {
        's' | 'r' | 'a' => {
            let text = match kind {
                's' if safe => markup::escape(value)?,
                's' => print(value)?,
                'r' if safe => markup::escape_text(&repr(value)?)?,
                'r' => repr(value)?,
                _ => ascii(&repr(value)?)?,
            };
            let taken: String = text.chars().take(conversion.precision.unwrap_or(usize::MAX)).collect();
            in_width(&taken, conversion.width, conversion.left)
        }
        'c' => {
            let c = match value {
                Value::Str(text) if text.chars().count() == 1 => text.to_string(),
                value => {
                    let code = value.as_int().and_then(|n| u32::try_from(n).ok()).and_then(char::from_u32);
                    code.ok_or_else(|| Fault::new("%c requires int or char"))?.to_string()
                }
            };
            in_width(&c, conversion.width, conversion.left)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => integer(kind, value, conversion),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => float(kind, value, conversion),
        other => fail(format!("unsupported format character {other:?}")),
    }
}

fn ascii(text: &str) -> Result<Text> {
    written(|out| {
        for c in text.chars() {
            match u32::from(c) {
                0..=0x7f => out.push_char(c)?,
                code @ 0x80..=0xff => out.push(&format!("\\x{code:02x}"))?,
                code @ 0x100..=0xffff => out.push(&format!("\\u{code:04x}"))?,
                code => out.push(&format!("\\U{code:08x}"))?,
            }
        }
        Ok(())
    })
}

fn integer(kind: char, value: &Value, conversion: &Conversion) -> Result<Text> {
    defined(value)?;
    let n = match value {
        Value::Float(x) if matches!(kind, 'd' | 'i' | 'u') => {
            if !x.is_finite() || x.abs() >= 1e30 {
                return fail("cannot convert the float to an integer");
            }
            Some(x.trunc() as i128)
        }
        value => value.as_int(),
    };
    let Some(n) = n else {
        return fail(format!("%{kind} format: a number is required, not {}", value.type_name()));
    };
    let digits = number::integer(n, kind);
    let wanted = conversion.precision.unwrap_or(0);
    limits::pass(wanted)?;
    let digits = "0".repeat(wanted.saturating_sub(digits.len())) + &digits;
    let prefix = match (conversion.alternate, kind) {
        (true, 'x') => "0x",
        (true, 'X') => "0X",
        (true, 'o') => "0o",
        _ => "",
    };
    let sign = if n < 0 { "-" } else { conversion.sign };
    signed(&(sign.to_owned() + prefix), &digits, conversion)
}

fn float(kind: char, value: &Value, conversion: &Conversion) -> Result<Text> {
    defined(value)?;
    let x = as_float(value).ok_or_else(|| Fault::new(format!("must be real number, not {}", value.type_name())))?;
    let form = FloatForm {
        kind: kind.to_ascii_lowercase(),
        precision: conversion.precision.unwrap_or(6),
        upper: kind.is_ascii_uppercase(),
        alternate: conversion.alternate,
    };
    let sign = if x.is_sign_negative() && !x.is_nan() { "-" } else { conversion.sign };
    signed(sign, &number::float(x, form)?, conversion)
}

/// A number in its width, with zeros after its sign where zeros fill it.
fn signed(sign: &str, digits: &str, conversion: &Conversion) -> Result<Text> {
    if conversion.zero && !conversion.left {
        let zeros = conversion.width.saturating_sub(sign.len() + digits.len());
        return written(|out| {
            out.push(sign)?;
            out.fill("0", zeros)?;
            out.push(digits)
        });
    }
    in_width(&(sign.to_owned() + digits), conversion.width, conversion.left)
}
