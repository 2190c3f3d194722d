//! Filters of numbers.

use super::super::ast::Operator;
use super::super::eval::{Args, Interp};
use super::super::fault::{Fault, Result, fail};
use super::super::limits;
use super::super::ops;
use super::super::value::{Order, Text, Value, defined, items_of, ordered};
use super::{Path, methods};

pub(super) fn abs(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.places::<0>("abs")?;
    defined(&value)?;
    match (value.as_int(), &value) {
        (Some(n), _) => n.checked_abs().map(Value::Int).ok_or_else(|| Fault::new("an integer is too large")),
        (None, Value::Float(x)) => Ok(Value::Float(x.abs())),
        _ => fail(format!("bad operand type for abs(): '{}'", value.type_name())),
    }
}

/// The text of a number as Python's `int` and `float` take it: without white space around it and `_` between digits.
fn plain_digits(text: &str) -> Result<Option<String>> {
    if let Some(c) = text.chars().find(|c| !c.is_ascii() && c.is_numeric()) {
        return fail(format!("the digit {c:?} is not supported"));
    }
    let text = crate::text::python::strip(text);
    let bytes = text.as_bytes();
    let is_word = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let misplaced = text.match_indices('_').any(|(at, _)| !is_word(at.checked_sub(1)) || !is_word(Some(at + 1)));
    Ok((!misplaced).then(|| text.replace('_', "")))
}

/// `int(text, base)`; `None` where it is not one.
fn parse_int(text: &str, base: i128) -> Result<Option<i128>> {
    limits::pass(text.len())?;
    if base != 0 && !(2..=36).contains(&base) {
        return Ok(None);
    }
    // Between a prefix and the digits one `_` may stand; `plain_digits` allows it there, too.
    let Some(text) = plain_digits(text)? else { return Ok(None) };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, of)| {
        let start = digits.get(..2)?;
        (start.eq_ignore_ascii_case(prefix) && (base == of || base == 0)).then_some((digits.get(2..)?, of))
    });
    let (digits, base) = match prefixed {
        Some(found) => found,
        None if base == 0 && digits.starts_with('0') && digits.bytes().any(|b| b != b'0') => return Ok(None),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    let radix = base as u32;
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    let large = || Fault::new("integers of more than 38 digits are not supported");
    let number = i128::from_str_radix(digits, radix).map_err(|_| large())?;
    Ok(Some(if negative { -number } else { number }))
}

/// `float(text)`; `None` where it is not one.
fn parse_float(text: &str) -> Result<Option<f64>> {
    limits::pass(text.len())?;
    let Some(text) = plain_digits(text)? else { return Ok(None) };
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !is_number && !matches!(word.as_str(), "inf" | "infinity" | "nan") {
        return Ok(None);
    }
    Ok(text.parse().ok())
}

fn to_float(value: &Value) -> Result<Option<f64>> {
    defined(value)?;
    match value {
        Value::Str(text) => parse_float(text),
        other => Ok(ops::as_float(other)),
    }
}

pub(super) fn float(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [default] = args.bind("float", ["default"])?;
    Ok(to_float(&value)?.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
}

fn truncated(x: f64) -> Result<i128> {
    if x.abs() >= 1e38 {
        return fail("cannot convert float infinity to integer, or one of more than 38 digits");
    }
    Ok(x.trunc() as i128)
}

pub(super) fn int(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let base = base.map_or(Ok(10), |base| methods::integer(&base))?;
    defined(&value)?;
    let direct = match &value {
        Value::Str(text) => parse_int(text, base)?,
        Value::Float(x) if x.is_nan() => None,
        Value::Float(x) => Some(truncated(*x)?),
        other => other.as_int(),
    };
    if let Some(n) = direct {
        return Ok(Value::Int(n));
    }
    // So that "42.23" gives 42.
    match to_float(&value)? {
        Some(x) if x.is_finite() => truncated(x).map(Value::Int),
        _ => Ok(default.unwrap_or(Value::Int(0))),
    }
}

/// `round(x, digits)` of a float: half to even, of the exact value.
fn round_float(x: f64, digits: i128) -> Result<f64> {
    if !x.is_finite() || digits > 323 {
        return Ok(x);
    }
    if let Ok(digits) = usize::try_from(digits) {
        return format!("{x:.digits$}").parse().map_err(|_| Fault::new("a number that cannot be rounded"));
    }
    if x.abs() >= 1e30 {
        return fail("rounding the whole digits of so large a float is not supported");
    }
    if digits < -30 {
        return Ok(0.0_f64.copysign(x));
    }
    let (whole, has_rest) = (x.trunc() as i128, x.fract() != 0.0);
    let unit = 10_i128.pow(digits.unsigned_abs() as u32);
    let rounded = round_whole(whole.unsigned_abs() as i128, unit, has_rest);
    Ok((rounded as f64).copysign(x))
}

/// The multiple of `unit` next to `n`, half to even; `more` says that the true number is a little more than `n`.
fn round_whole(n: i128, unit: i128, more: bool) -> i128 {
    let (count, rest) = (n.div_euclid(unit), n.rem_euclid(unit));
    let twice = rest.saturating_mul(2);
    let up = twice > unit || (twice == unit && (more || count % 2 != 0));
    (count + i128::from(up)).saturating_mul(unit)
}

pub(super) fn round(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let digits = precision.as_ref().map_or(Ok(0), methods::integer)?;
    let method = match &method {
        None => "common",
        Some(Value::Str(method)) => &**method,
        Some(_) => "",
    };
    defined(&value)?;
    match method {
        "common" => match (value.as_int(), &value) {
            (Some(n), _) if digits >= 0 => Ok(Value::Int(n)),
            (Some(n), _) if digits >= -37 => {
                Ok(Value::Int(round_whole(n, 10_i128.pow(digits.unsigned_abs() as u32), false)))
            }
            (Some(_), _) => Ok(Value::Int(0)),
            (None, Value::Float(x)) => round_float(*x, digits).map(Value::Float),
            _ => fail(format!("type {} doesn't define __round__ method", value.type_name())),
        },
        "ceil" | "floor" => {
            let scale = ops::binary(interp, Operator::Power, &Value::Int(10), &Value::Int(digits))?;
            let scaled = ops::binary(interp, Operator::Multiply, &value, &scale)?;
            let whole = match &scaled {
                Value::Float(x) if x.is_finite() => truncated(if method == "ceil" { x.ceil() } else { x.floor() })?,
                Value::Float(_) => return fail("cannot convert float infinity or NaN to integer"),
                other => methods::integer(other)?,
            };
            ops::binary(interp, Operator::Divide, &Value::Int(whole), &scale)
        }
        _ => fail("method must be common, ceil or floor"),
    }
}

pub(super) fn sum(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let path = Path::new(attribute.as_ref())?;
    let mut total = start.unwrap_or(Value::Int(0));
    if let Value::Str(_) = total {
        return fail("sum() can't sum strings [use ''.join(seq) instead]");
    }
    for item in items_of(interp, &value)? {
        let item = path.follow(interp, &item)?;
        total = ops::binary(interp, Operator::Add, &total, &item)?;
    }
    Ok(total)
}

fn extreme(interp: &mut Interp, value: &Value, args: Args, order: Order) -> Result<Value> {
    let [case_sensitive, attribute] = args.bind("min", ["case_sensitive", "attribute"])?;
    let path = Path::new(attribute.as_ref())?.with_case(case_sensitive);
    let mut best: Option<(Value, Value)> = None;
    for item in items_of(interp, value)? {
        let key = path.follow(interp, &item)?;
        let better = match &best {
            None => true,
            Some((known, _)) => ordered(order, &key, known)?,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

pub(super) fn min(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    extreme(interp, &value, args, Order::Less)
}

pub(super) fn max(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    extreme(interp, &value, args, Order::Greater)
}

pub(super) fn filesizeformat(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [binary] = args.bind("filesizeformat", ["binary"])?;
    let binary = binary.is_some_and(|flag| flag.truthy());
    let bytes = to_float(&value)?.ok_or_else(|| Fault::new("`filesizeformat` takes a number"))?;
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes.is_nan() {
        return fail("`filesizeformat` of nan is not supported");
    }
    let text = if bytes.total_cmp(&1.0).is_eq() {
        "1 Byte".to_owned()
    } else if bytes < base {
        format!("{} Bytes", truncated(bytes)?)
    } else {
        // Both are the nearest floats to the powers: those of ten are not exact above 10^22.
        let power = |n: i32| if binary { Ok(base.powi(n)) } else { format!("1e{}", 3 * n).parse::<f64>() };
        let power = |n| power(n).map_err(|_| Fault::new("a unit that cannot be computed"));
        let mut exponent = 2;
        let mut unit = power(exponent)?;
        let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
        let mut prefixes = prefixes.iter().peekable();
        let mut prefix = "";
        while let Some(next) = prefixes.next() {
            prefix = next;
            if bytes < unit || prefixes.peek().is_none() {
                break;
            }
            exponent += 1;
            unit = power(exponent)?;
        }
        let size = base * bytes / unit;
        let prefix = if binary { prefix.to_uppercase() + "iB" } else { prefix.to_owned() + "B" };
        if size.is_finite() { format!("{size:.1} {prefix}") } else { format!("inf {prefix}") }
    };
    Ok(Value::Str(Text::new(text)?))
}
