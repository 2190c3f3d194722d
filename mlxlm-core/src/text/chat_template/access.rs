//! Attributes, items and slices: `getattr`, `getitem` and slicing of Jinja2's sandbox.

use std::rc::Rc;

use super::eval::Interp;
use super::fault::{Result, fail};
use super::sink::written;
use super::value::{Object, Value, defined};
use super::{limits, markup, methods};

/// What looking for an attribute found.
enum Found {
    Value(Value),
    /// It is there in Python, and the sandbox does not give it away.
    Unsafe,
    Nothing,
}

/// `value.name`: the attribute, or else the item.
pub(super) fn attribute(interp: &mut Interp, value: &Value, name: &str) -> Result<Value> {
    defined(value)?;
    match own_attribute(interp, value, name)? {
        Found::Value(found) => Ok(found),
        Found::Unsafe => Ok(unsafe_attribute(value, name)),
        Found::Nothing => match value {
            Value::Dict(dict) => Ok(dict.get_str(name)?.cloned().unwrap_or_else(|| missing(value, name))),
            _ => Ok(missing(value, name)),
        },
    }
}

/// `value[key]`: the item, or else the attribute.
pub(super) fn item(interp: &mut Interp, value: &Value, key: &Value) -> Result<Value> {
    defined(value)?;
    if let Some(found) = own_item(value, key)? {
        return Ok(found);
    }
    let Some(name) = key.as_text() else { return Ok(missing_item(value, key)) };
    match own_attribute(interp, value, name)? {
        Found::Value(found) => Ok(found),
        Found::Unsafe => Ok(unsafe_attribute(value, name)),
        Found::Nothing => Ok(missing(value, name)),
    }
}

fn unsafe_attribute(value: &Value, name: &str) -> Value {
    Value::undefined(format!("access to attribute '{name}' of '{}' object is unsafe.", value.type_name()))
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{} object' has no attribute '{}'", value.type_name(), shown(name)))
}

fn missing_item(value: &Value, key: &Value) -> Value {
    let key = super::value::repr(key).map_or_else(|_| key.type_name().to_owned(), |key| shown(&key));
    Value::undefined(format!("{} object has no element {key}", value.type_name()))
}

fn shown(name: &str) -> String {
    name.chars().take(60).collect()
}

fn own_item(value: &Value, key: &Value) -> Result<Option<Value>> {
    let place = |len: usize| key.as_int().and_then(|at| place(at, len));
    match value {
        Value::Dict(dict) => match key {
            Value::List(_) | Value::Dict(_) => Ok(None),
            key => Ok(dict.get(key)?.cloned()),
        },
        Value::List(items) | Value::Tuple(items) => Ok(place(items.len()).and_then(|at| items.get(at)).cloned()),
        Value::Range(range) => Ok(place(range.len()).and_then(|at| range.get(at))),
        Value::Str(text) if key.as_int().is_some() => {
            limits::pass(text.len())?;
            let at = place(text.chars().count());
            let Some(c) = at.and_then(|at| text.chars().nth(at)) else { return Ok(None) };
            let Value::Str(found) = Value::str(c)? else { return Ok(None) };
            Ok(Some(markup::text(found, text.safe)))
        }
        _ => Ok(None),
    }
}

/// The place that an index means, which may count from the end.
pub(super) fn place(at: i128, len: usize) -> Option<usize> {
    let at = if at < 0 { at + len as i128 } else { at };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn own_attribute(interp: &mut Interp, value: &Value, name: &str) -> Result<Found> {
    if name.starts_with("__") && name.ends_with("__") {
        let is_item = matches!(value, Value::Dict(dict) if dict.get_str(name)?.is_some());
        return if is_item { fail(format!("the key '{name}' is not supported")) } else { Ok(Found::Unsafe) };
    }
    if let Value::Object(object) = value {
        return object_attribute(interp, object, name);
    }
    if let Value::Tuple(items) = value
        && items.grouped
        && let Some(at) = ["grouper", "list"].iter().position(|field| *field == name)
    {
        return Ok(items.get(at).map_or(Found::Nothing, |field| Found::Value(field.clone())));
    }
    if let (Value::Range(range), "start" | "stop" | "step") = (value, name) {
        let part = match name {
            "start" => range.start,
            "stop" => range.stop,
            _ => range.step,
        };
        return Ok(Found::Value(Value::Int(part)));
    }
    match methods::find(value, name) {
        methods::Kind::Method(name) => Object::method(value, name).map(Found::Value),
        methods::Kind::Unsafe => Ok(Found::Unsafe),
        methods::Kind::Unsupported => {
            fail(format!("`{name}` of a value of type {} is not supported", value.type_name()))
        }
        methods::Kind::None => Ok(Found::Nothing),
    }
}

fn object_attribute(interp: &mut Interp, object: &Rc<Object>, name: &str) -> Result<Found> {
    let method = |name| Object::method(&Value::Object(object.clone()), name).map(Found::Value);
    let found = match &**object {
        Object::Namespace(fields) => fields.borrow().get_str(name)?.cloned(),
        Object::Loop(_) => interp.loop_attribute(object, name)?,
        Object::Macro { id, .. } => interp.macro_attribute(*id, name)?,
        Object::Blocks => interp.block_named(name),
        Object::Cycler { items, at, .. } => match name {
            "next" => return method("next"),
            "reset" => return method("reset"),
            "current" => items.get(at.get()).cloned(),
            "pos" => Some(Value::from(at.get())),
            "items" => Some(Value::tuple(items.clone())?),
            _ => None,
        },
        Object::Joiner { separator, used } => match name {
            "sep" => Some(separator.clone()),
            "used" => Some(Value::Bool(used.get())),
            _ => None,
        },
        Object::Global(super::value::Global::Dict) if name == "fromkeys" => return method("fromkeys"),
        Object::Block(_) => match name {
            "super" | "name" => return fail(format!("`{name}` of a block is not supported")),
            _ => None,
        },
        Object::Global(_) | Object::Method { .. } => None,
    };
    Ok(found.map_or(Found::Nothing, Found::Value))
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, [start, stop, step]: &[Value; 3]) -> Result<Value> {
    defined(value)?;
    let index = |part: &Value| match part {
        Value::None => Ok(None),
        part => match part.as_int() {
            Some(n) => Ok(Some(n)),
            None => {
                defined(part)?;
                fail("slice indices must be integers or None or have an __index__ method")
            }
        },
    };
    let parts = [index(start)?, index(stop)?, index(step)?];
    if parts[2] == Some(0) {
        return fail("slice step cannot be zero");
    }
    match value {
        Value::Str(text) => {
            limits::pass(text.len())?;
            let chars: Vec<char> = text.chars().collect();
            let text_of = written(|out| {
                places(parts, chars.len()).filter_map(|at| chars.get(at)).try_for_each(|c| out.push_char(*c))
            })?;
            Ok(markup::text(text_of, text.safe))
        }
        Value::List(items) => Value::list(places(parts, items.len()).filter_map(|at| items.get(at)).cloned().collect()),
        Value::Tuple(items) => {
            Value::tuple(places(parts, items.len()).filter_map(|at| items.get(at)).cloned().collect())
        }
        Value::Range(range) => range.part(clamped(parts, range.len())).map(Value::Range),
        other => fail(format!("'{}' object is not subscriptable", other.type_name())),
    }
}

/// The first place of a slice, the one that it stops before, and its step.
fn clamped([start, stop, step]: [Option<i128>; 3], len: usize) -> [i128; 3] {
    let len = len as i128;
    let step = step.unwrap_or(1);
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |at: i128| if at < 0 { at.saturating_add(len).max(low) } else { at.min(high) };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    [start.map_or(first, clamp), stop.map_or(last, clamp), step]
}

/// The places that a slice takes, in order.
fn places(parts: [Option<i128>; 3], len: usize) -> impl Iterator<Item = usize> {
    let [start, stop, step] = clamped(parts, len);
    let goes_on = move |at: &i128| if step > 0 { *at < stop } else { *at > stop };
    std::iter::successors(Some(start), move |at| at.checked_add(step))
        .take_while(goes_on)
        .filter_map(|at| usize::try_from(at).ok())
}
