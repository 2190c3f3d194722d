//! Equality, order and membership of Python.

use std::cmp::Ordering;
use std::rc::Rc;

use super::super::eval::Interp;
use super::super::fault::{Result, fail};
use super::super::limits;
use super::{Items, Value, View, defined, items_of};

/// An operator of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, ordering: Option<Ordering>) -> bool {
        match self {
            Self::Less => ordering == Some(Ordering::Less),
            Self::LessOrEqual => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => ordering == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// `a == b`.
pub(in super::super) fn equal(a: &Value, b: &Value) -> Result<bool> {
    limits::steps(1)?;
    if let Some(ordering) = numbers(a, b) {
        return Ok(ordering == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => {
            limits::pass(a.len().min(b.len()))?;
            **a == **b
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            Rc::ptr_eq(a, b) || (a.len() == b.len() && first_difference(a, b)?.is_none())
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.pairs() {
                match b.get(key)? {
                    Some(other) if equal(value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => {
            a.len() == b.len() && (a.len() == 0 || (a.start == b.start && (a.len() == 1 || a.step == b.step)))
        }
        (Value::View(View::Keys | View::Items, _), Value::View(View::Keys | View::Items, _)) => {
            return fail("views of dicts cannot be compared here: make lists of them");
        }
        (Value::Iter(_), Value::Iter(_)) | (Value::Object(_), Value::Object(_)) => a.same(b)?,
        _ => false,
    })
}

/// The order of two numbers, inner `None` where one is not a number; outer `None` where both are not numbers.
#[expect(clippy::option_option, reason = "the two say different things")]
fn numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    match (a.as_int(), b.as_int(), a, b) {
        (Some(a), Some(b), _, _) => Some(Some(a.cmp(&b))),
        (Some(a), None, _, Value::Float(b)) => Some(int_to_float(a, *b)),
        (None, Some(b), Value::Float(a), _) => Some(int_to_float(b, *a).map(Ordering::reverse)),
        (None, None, Value::Float(a), Value::Float(b)) => Some(a.partial_cmp(b)),
        _ => None,
    }
}

/// The order of an integer and a float, exactly.
fn int_to_float(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    // Beyond this a float is larger than any integer here.
    if b.abs() >= 1.7e38 {
        return Some(if b > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let whole = b.trunc();
    Some(a.cmp(&(whole as i128)).then(0.0.partial_cmp(&(b - whole))?))
}

/// Where two lists differ first, in their common length.
fn first_difference(a: &Items, b: &Items) -> Result<Option<usize>> {
    for (at, (x, y)) in a.iter().zip(b.iter()).enumerate() {
        if !equal(x, y)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// `a < b` and its kin.
pub(in super::super) fn ordered(order: Order, a: &Value, b: &Value) -> Result<bool> {
    limits::steps(1)?;
    defined(a)?;
    defined(b)?;
    if let Some(ordering) = numbers(a, b) {
        return Ok(order.holds(ordering));
    }
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => {
            limits::pass(a.len().min(b.len()))?;
            Ok(order.holds(Some(a.cmp(b))))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => match first_difference(a, b)? {
            Some(at) => match (a.get(at), b.get(at)) {
                (Some(a), Some(b)) => ordered(order, a, b),
                _ => fail("the lists changed"),
            },
            None => Ok(order.holds(Some(a.len().cmp(&b.len())))),
        },
        _ => fail(format!(
            "'{}' not supported between instances of '{}' and '{}'",
            order.symbol(),
            a.type_name(),
            b.type_name()
        )),
    }
}

/// `item in container`.
pub(in super::super) fn contains(interp: &mut Interp, container: &Value, item: &Value) -> Result<bool> {
    match (container, item) {
        (Value::Str(text), Value::Str(part)) => {
            limits::pass(text.len())?;
            Ok(text.contains(&**part))
        }
        (Value::Str(_), other) => {
            fail(format!("'in <string>' requires string as left operand, not {}", other.type_name()))
        }
        (Value::Dict(dict) | Value::View(View::Keys, dict), _) => Ok(dict.get(item)?.is_some()),
        (Value::Iter(iter), _) => {
            while let Some(next) = iter.next(interp)? {
                if equal(&next, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::List(items) | Value::Tuple(items), _) => any_equal(items, item),
        (other @ (Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Object(_)), _) => {
            fail(format!("argument of type '{}' is not iterable", other.type_name()))
        }
        _ => any_equal(&items_of(interp, container)?, item),
    }
}

fn any_equal(items: &[Value], item: &Value) -> Result<bool> {
    for next in items {
        if equal(next, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sorts by keys as Python does: stable, also in reverse.
pub(in super::super) fn sort_by(items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
    if items.len() > 1 {
        items.iter().try_for_each(|(key, _)| refuse_nan(key))?;
    }
    let order = if reverse { Order::Greater } else { Order::Less };
    Ok(merge_sort(items, order)?.into_iter().map(|(_, item)| item).collect())
}

fn refuse_nan(key: &Value) -> Result<()> {
    limits::steps(1)?;
    match key {
        Value::Float(x) if x.is_nan() => fail("a list with `nan` has no order"),
        Value::List(items) | Value::Tuple(items) => items.iter().try_for_each(refuse_nan),
        _ => Ok(()),
    }
}

fn merge_sort(mut items: Vec<(Value, Value)>, order: Order) -> Result<Vec<(Value, Value)>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    let mut left = merge_sort(items, order)?.into_iter().peekable();
    let mut right = merge_sort(right, order)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let from_right = ordered(order, &b.0, &a.0)?;
        merged.extend(if from_right { right.next() } else { left.next() });
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::Int(n as i128)
    }
}
