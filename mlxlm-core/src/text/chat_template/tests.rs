//! The tests of Jinja2: what stands after `is`.
//!
//! Reference: Jinja2's `tests.py`.

use super::ast::Operator;
use super::eval::{Args, Interp, needed};
use super::fault::{Fault, Result, fail};
use super::value::{Object, Order, Value, contains, equal, ordered, print};
use super::{filters, limits, methods, ops};

const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether there is a test of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether `value is name(args)`.
pub(super) fn call(interp: &mut Interp, name: &str, value: &Value, args: Args) -> Result<bool> {
    let one = |of: &str| -> Result<Value> {
        let parameter = match of {
            "divisibleby" => "num",
            "in" => "seq",
            "sameas" => "other",
            _ => "",
        };
        let [other] =
            if parameter.is_empty() { args.clone().places(of)? } else { args.clone().bind(of, [parameter])? };
        needed(other, of, "other")
    };
    match name {
        "eq" | "==" | "equalto" => return equal(value, &one(name)?),
        "ne" | "!=" => return Ok(!equal(value, &one(name)?)?),
        "lt" | "<" | "lessthan" => return ordered(Order::Less, value, &one(name)?),
        "le" | "<=" => return ordered(Order::LessOrEqual, value, &one(name)?),
        "gt" | ">" | "greaterthan" => return ordered(Order::Greater, value, &one(name)?),
        "ge" | ">=" => return ordered(Order::GreaterOrEqual, value, &one(name)?),
        "in" => {
            let container = one(name)?;
            return contains(interp, &container, value);
        }
        "sameas" => return value.same(&one(name)?),
        "divisibleby" => {
            let number = one(name)?;
            let rest = ops::binary(interp, Operator::Modulo, value, &number)?;
            return equal(&rest, &Value::Int(0));
        }
        _ => {}
    }
    args.bind::<0>(name, [])?;
    plain(interp, name, value)
}

/// The tests without arguments.
fn plain(interp: &mut Interp, name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "escaped" => matches!(value, Value::Str(text) if text.safe),
        "odd" | "even" => {
            let rest = ops::binary(interp, Operator::Modulo, value, &Value::Int(2))?;
            equal(&rest, &Value::Int(i128::from(name == "odd")))?
        }
        "lower" | "upper" => {
            let text = print(value)?;
            // Each letter is looked up several times.
            limits::pass(text.len().saturating_mul(16))?;
            if name == "lower" { methods::is_lower(&text) } else { methods::is_upper(&text) }
        }
        "sequence" => match value {
            // An undefined value has a length and refuses its items only when they are asked for.
            Value::Undefined(_)
            | Value::Str(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_)
            | Value::Range(_) => true,
            _ => false,
        },
        "iterable" => match value {
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
            Value::Object(object) => matches!(**object, Object::Loop(_)),
            _ => true,
        },
        "callable" => match value {
            Value::Undefined(_) => true,
            Value::Object(object) => !matches!(**object, Object::Namespace(_) | Object::Cycler { .. } | Object::Blocks),
            _ => false,
        },
        "filter" => known(value, |name| filters::find(name).is_some())?,
        "test" => known(value, exists)?,
        _ => return Err(Fault::new(format!("No test named '{name}' found."))),
    })
}

fn known(value: &Value, is_known: impl Fn(&str) -> bool) -> Result<bool> {
    match value {
        Value::Str(name) => Ok(is_known(name)),
        Value::List(_) | Value::Dict(_) => fail(format!("unhashable type: '{}'", value.type_name())),
        _ => Ok(false),
    }
}
