//! The operators of arithmetic, as Python's numbers, strings and lists have them.

use super::ast::Operator;
use super::eval::Interp;
use super::fault::{Fault, Result, fail};
use super::format::percent;
use super::sink::written;
use super::value::{Text, Value, defined};
use super::{limits, markup};

/// Two numbers: integers, or floats where one is.
#[derive(Clone, Copy)]
enum Pair {
    Ints(i128, i128),
    Floats(f64, f64),
}

/// A float, or an integer as one.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(x) => Some(*x),
        other => other.as_int().map(|n| n as f64),
    }
}

fn pair(a: &Value, b: &Value) -> Option<Pair> {
    match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => Some(Pair::Ints(a, b)),
        _ => Some(Pair::Floats(as_float(a)?, as_float(b)?)),
    }
}

fn large() -> Fault {
    Fault::new("integers of more than 38 digits are not supported")
}

/// `a <operator> b`.
pub(super) fn binary(interp: &mut Interp, operator: Operator, a: &Value, b: &Value) -> Result<Value> {
    match (operator, a) {
        // A format takes undefined values, which print as nothing.
        (Operator::Modulo, Value::Str(format)) => return percent::format(interp, format, b),
        _ => {
            defined(a)?;
            defined(b)?;
        }
    }
    if let Some(pair) = pair(a, b) {
        return arithmetic(operator, pair);
    }
    match (operator, a, b) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => join(a, b),
        (Operator::Add, Value::List(x), Value::List(y)) => {
            limits::check_size((x.len() + y.len()).saturating_mul(size_of::<Value>()))?;
            Value::list(x.iter().chain(y.iter()).cloned().collect())
        }
        (Operator::Add, Value::Tuple(x), Value::Tuple(y)) => {
            limits::check_size((x.len() + y.len()).saturating_mul(size_of::<Value>()))?;
            Value::tuple(x.iter().chain(y.iter()).cloned().collect())
        }
        (Operator::Multiply, a, b) => match (a.as_int(), b.as_int()) {
            (None, Some(count)) => repeat(a, count),
            (Some(count), None) => repeat(b, count),
            _ => unsupported(operator, a, b),
        },
        _ => unsupported(operator, a, b),
    }
}

fn unsupported<T>(operator: Operator, a: &Value, b: &Value) -> Result<T> {
    let symbol = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "** or pow()",
    };
    fail(format!("unsupported operand type(s) for {symbol}: '{}' and '{}'", a.type_name(), b.type_name()))
}

/// `a + b` for texts: where one is safe, the other is escaped.
fn join(a: &Text, b: &Text) -> Result<Value> {
    let safe = a.safe || b.safe;
    let text = written(|out| {
        for part in [a, b] {
            if safe && !part.safe {
                markup::escape_into(part, out)?;
            } else {
                out.push(part)?;
            }
        }
        Ok(())
    })?;
    Ok(markup::text(text, safe))
}

fn repeat(value: &Value, count: i128) -> Result<Value> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Str(text) => {
            let safe = text.safe;
            Ok(markup::text(written(|out| out.fill(text, count))?, safe))
        }
        Value::List(items) | Value::Tuple(items) => {
            limits::check_size(items.len().saturating_mul(count).saturating_mul(size_of::<Value>()))?;
            let items: Vec<Value> = items.iter().cycle().take(items.len().saturating_mul(count)).cloned().collect();
            if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
        }
        other => unsupported(Operator::Multiply, other, &Value::Int(0)),
    }
}

fn arithmetic(operator: Operator, pair: Pair) -> Result<Value> {
    let (a, b) = match pair {
        Pair::Ints(a, b) => return integers(operator, a, b),
        Pair::Floats(a, b) => (a, b),
    };
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide if b == 0.0 => return fail("float division by zero"),
        Operator::Divide => a / b,
        Operator::FloorDivide if b == 0.0 => return fail("float floor division by zero"),
        Operator::FloorDivide => divide_floor(a, b).0,
        Operator::Modulo if b == 0.0 => return fail("float modulo"),
        Operator::Modulo => divide_floor(a, b).1,
        Operator::Power => return float_power(a, b),
    }))
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Value> {
    let checked = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide if b == 0 => return fail("division by zero"),
        Operator::Divide => return true_divide(a, b),
        Operator::FloorDivide | Operator::Modulo if b == 0 => return fail("integer division or modulo by zero"),
        Operator::FloorDivide => a.checked_div_euclid(b).map(|_| floor_divide(a, b).0),
        Operator::Modulo => a.checked_rem(b).map(|_| floor_divide(a, b).1),
        Operator::Power if b < 0 && a == 0 => return fail("0.0 cannot be raised to a negative power"),
        Operator::Power if b < 0 => return float_power(a as f64, b as f64),
        Operator::Power => match a {
            0 | 1 => Some(if b == 0 { 1 } else { a }),
            -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
            _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        },
    };
    checked.map(Value::Int).ok_or_else(large)
}

/// Quotient and remainder of integers that round down; `b` is not 0 and the quotient fits.
fn floor_divide(a: i128, b: i128) -> (i128, i128) {
    let (quotient, rest) = (a / b, a % b);
    if rest != 0 && (rest < 0) != (b < 0) { (quotient - 1, rest + b) } else { (quotient, rest) }
}

/// `a / b` of integers, rounded once.
pub(super) fn true_divide(a: i128, b: i128) -> Result<Value> {
    let exact = |n: i128| n.unsigned_abs() <= 1 << 53;
    if exact(a) && exact(b) {
        return Ok(Value::Float(a as f64 / b as f64));
    }
    match a.checked_rem(b) {
        Some(0) => Ok(Value::Float((a / b) as f64)),
        _ => fail("a quotient of integers above 2^53 is not supported"),
    }
}

/// `divmod(a, b)` of floats; `b` is not 0.
fn divide_floor(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (b < 0.0) != (rest < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}

fn float_power(a: f64, b: f64) -> Result<Value> {
    if a == 0.0 && b < 0.0 {
        return fail("0.0 cannot be raised to a negative power");
    }
    if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
        return fail("complex numbers are not supported");
    }
    let power = a.powf(b);
    if power.is_infinite() && a.is_finite() && b.is_finite() {
        return fail("(34, 'Numerical result out of range')");
    }
    Ok(Value::Float(power))
}

/// `-a`.
pub(super) fn negative(a: &Value) -> Result<Value> {
    defined(a)?;
    match (a.as_int(), a) {
        (Some(n), _) => n.checked_neg().map(Value::Int).ok_or_else(large),
        (None, Value::Float(x)) => Ok(Value::Float(-x)),
        _ => fail(format!("bad operand type for unary -: '{}'", a.type_name())),
    }
}

/// `+a`.
pub(super) fn positive(a: &Value) -> Result<Value> {
    defined(a)?;
    match (a.as_int(), a) {
        (Some(n), _) => Ok(Value::Int(n)),
        (None, Value::Float(x)) => Ok(Value::Float(*x)),
        _ => fail(format!("bad operand type for unary +: '{}'", a.type_name())),
    }
}
