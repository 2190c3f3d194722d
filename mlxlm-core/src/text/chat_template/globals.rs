//! The functions that every template has.

use std::cell::Cell;
use std::rc::Rc;

use super::eval::{Args, Interp, needed};
use super::fault::{Fault, Result, fail};
use super::methods;
use super::strftime;
use super::value::{Dict, Global, Object, Range, Value, items_of, pairs_of, print};

/// Calls a function.
pub(super) fn call(interp: &mut Interp, global: Global, args: Args) -> Result<Value> {
    match global {
        Global::Range => range(args),
        Global::Dict => Ok(Value::Dict(Rc::new(dict(interp, args)?))),
        Global::Namespace => {
            let fields = dict(interp, args)?;
            for (name, _) in fields.pairs() {
                if let Some(name) = name.as_text().filter(|name| name.starts_with('_')) {
                    let name: String = name.chars().take(60).collect();
                    return fail(format!(
                        "a namespace cannot have the attribute '{name}', which begins with an underscore"
                    ));
                }
            }
            interp.namespace(fields)
        }
        Global::Cycler => {
            let items = args.only_by_place("cycler")?;
            if items.is_empty() {
                return fail("at least one item has to be provided");
            }
            Object::cycler(items)
        }
        Global::Joiner => {
            let [separator] = args.bind("joiner", ["sep"])?;
            let separator = separator.map_or_else(|| Value::str(", "), Ok)?;
            if !matches!(separator, Value::Str(_)) {
                return fail("`joiner` takes a string");
            }
            Ok(Value::object(Object::Joiner { separator, used: Cell::new(false) }))
        }
        Global::Lipsum => fail("`lipsum` is not supported: a prompt must not depend on chance"),
        Global::RaiseException => {
            let [message] = args.bind("raise_exception", ["message"])?;
            let message = needed(message, "raise_exception", "message")?;
            Err(Fault::raised(print(&message)?.to_string()))
        }
        Global::StrftimeNow => {
            let [format] = args.bind("strftime_now", ["format"])?;
            match needed(format, "strftime_now", "format")? {
                Value::Str(format) => Value::str(strftime::now(&format)?),
                other => fail(format!("strftime() argument 1 must be str, not {}", other.type_name())),
            }
        }
    }
}

fn range(args: Args) -> Result<Value> {
    let numbers = args.only_by_place("range")?.iter().map(methods::integer).collect::<Result<Vec<_>>>()?;
    let range = match *numbers.as_slice() {
        [stop] => Range::new(0, stop, 1),
        [start, stop] => Range::new(start, stop, 1),
        [start, stop, step] => Range::new(start, stop, step),
        _ => return fail(format!("range expected 1 to 3 arguments, got {}", numbers.len())),
    };
    range.map(Value::Range)
}

/// `dict(pairs, name=value)`.
fn dict(interp: &mut Interp, args: Args) -> Result<Dict> {
    let Args { by_place, by_name } = args;
    if by_place.len() > 1 {
        return fail(format!("dict expected at most 1 argument, got {}", by_place.len()));
    }
    let mut dict = Dict::default();
    for value in &by_place {
        for (key, value) in pairs_of(interp, value)? {
            dict.insert(key, value)?;
        }
    }
    for (name, value) in by_name {
        dict.insert(Value::str(name)?, value)?;
    }
    Ok(dict)
}

/// `dict.fromkeys(keys, value)`.
pub(super) fn from_keys(interp: &mut Interp, args: Args) -> Result<Value> {
    let [keys, value] = args.places("fromkeys")?;
    let keys = items_of(interp, &needed(keys, "fromkeys", "iterable")?)?;
    let value = value.unwrap_or(Value::None);
    let dict = Dict::from_pairs(keys.into_iter().map(|key| (key, value.clone())))?;
    Ok(Value::Dict(Rc::new(dict)))
}

/// The methods of what these functions make.
pub(super) fn method(interp: &mut Interp, of: &Object, name: &str, args: Args) -> Result<Value> {
    match (of, name) {
        (Object::Global(Global::Dict), "fromkeys") => from_keys(interp, args),
        (Object::Cycler { items, at, .. }, "next") => {
            args.places::<0>(name)?;
            let current = items.get(at.get()).cloned();
            at.set((at.get() + 1).checked_rem(items.len()).unwrap_or(0));
            current.ok_or_else(|| Fault::new("a cycler without items"))
        }
        (Object::Cycler { at, .. }, "reset") => {
            args.places::<0>(name)?;
            at.set(0);
            Ok(Value::None)
        }
        _ => fail(format!("'{}' object has no method '{name}'", of.type_name())),
    }
}
