//! The methods of Python's own types.

mod cases;
mod search;
mod split;
mod str;

use std::rc::Rc;

use super::eval::{Args, Interp, needed};
use super::fault::{Fault, Result, fail};
use super::value::{Dict, Value, View, equal};

pub(super) use cases::{capitalize, is_lower, is_upper, lower, upper};
pub(super) use search::replaced;
pub(super) use split::{join_into, lines, words};
pub(super) use str::{integer, padded};

/// What a name is for a type.
pub(super) enum Kind {
    Method(&'static str),
    /// The sandbox hides it, since it changes the value.
    Unsafe,
    /// Python has it, and this engine has not.
    Unsupported,
    None,
}

/// The names of one type.
struct Names {
    methods: &'static [&'static str],
    hidden: &'static [&'static str],
    missing: &'static [&'static str],
}

const STR: Names = Names {
    methods: &[
        "capitalize",
        "casefold",
        "center",
        "count",
        "endswith",
        "expandtabs",
        "find",
        "format",
        "format_map",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "isidentifier",
        "islower",
        "isnumeric",
        "isprintable",
        "isspace",
        "istitle",
        "isupper",
        "join",
        "ljust",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rjust",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
        "zfill",
    ],
    hidden: &[],
    missing: &["encode", "maketrans", "translate"],
};
const MARKUP: [&str; 2] = ["striptags", "unescape"];
const DICT: Names = Names {
    methods: &["copy", "fromkeys", "get", "items", "keys", "values"],
    hidden: &["clear", "pop", "popitem", "setdefault", "update"],
    missing: &[],
};
const LIST: Names = Names {
    methods: &["copy", "count", "index"],
    hidden: &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
    missing: &[],
};
const TUPLE: Names = Names { methods: &["count", "index"], hidden: &[], missing: &[] };
const INT: Names = Names {
    methods: &["bit_length", "conjugate"],
    hidden: &[],
    missing: &["as_integer_ratio", "bit_count", "denominator", "from_bytes", "imag", "numerator", "real", "to_bytes"],
};
const FLOAT: Names = Names {
    methods: &["conjugate", "is_integer"],
    hidden: &[],
    missing: &["as_integer_ratio", "fromhex", "hex", "imag", "real"],
};
const RANGE: Names = Names { methods: &[], hidden: &[], missing: &["count", "index"] };
const VIEW: Names = Names { methods: &[], hidden: &[], missing: &["isdisjoint", "mapping"] };
const ITER: Names = Names {
    methods: &[],
    hidden: &["gi_code", "gi_frame"],
    missing: &["close", "gi_running", "gi_suspended", "gi_yieldfrom", "send", "throw"],
};
const NOTHING: Names = Names { methods: &[], hidden: &[], missing: &[] };

/// What `name` is for a value.
pub(super) fn find(value: &Value, name: &str) -> Kind {
    let names = match value {
        Value::Str(text) => {
            if text.safe && name == "escape" {
                return Kind::Unsupported;
            }
            if let Some(method) = MARKUP.iter().find(|method| text.safe && **method == name) {
                return Kind::Method(method);
            }
            STR
        }
        Value::Dict(_) => DICT,
        Value::List(_) => LIST,
        Value::Tuple(_) => TUPLE,
        Value::Int(_) | Value::Bool(_) => INT,
        Value::Float(_) => FLOAT,
        Value::Range(_) => RANGE,
        Value::View(..) => VIEW,
        Value::Iter(_) => ITER,
        Value::Undefined(_) | Value::None | Value::Object(_) => NOTHING,
    };
    if let Some(method) = names.methods.iter().find(|method| **method == name) {
        return Kind::Method(method);
    }
    if names.hidden.contains(&name) {
        return Kind::Unsafe;
    }
    if names.missing.contains(&name) { Kind::Unsupported } else { Kind::None }
}

/// Calls a method.
pub(super) fn call(interp: &mut Interp, of: &Value, name: &'static str, args: Args) -> Result<Value> {
    match of {
        Value::Str(text) => str::call(interp, text, name, args),
        Value::Dict(dict) => dict_method(interp, dict, name, args),
        Value::List(items) | Value::Tuple(items) => {
            let is_list = matches!(of, Value::List(_));
            list_method(items, is_list, name, args)
        }
        Value::Int(_) | Value::Bool(_) => {
            args.places::<0>(name)?;
            let n = of.as_int().unwrap_or(0);
            let bits = 128 - n.unsigned_abs().leading_zeros();
            Ok(Value::Int(if name == "bit_length" { bits.into() } else { n }))
        }
        Value::Float(x) => {
            args.places::<0>(name)?;
            Ok(if name == "is_integer" { Value::Bool(x.fract() == 0.0) } else { Value::Float(*x) })
        }
        other => fail(format!("'{}' object has no method '{name}'", other.type_name())),
    }
}

fn dict_method(interp: &mut Interp, dict: &Rc<Dict>, name: &str, args: Args) -> Result<Value> {
    match name {
        "get" => {
            let [key, default] = args.places(name)?;
            let key = needed(key, name, "key")?;
            Ok(dict.get(&key)?.cloned().or(default).unwrap_or(Value::None))
        }
        "fromkeys" => super::globals::from_keys(interp, args),
        _ => {
            args.places::<0>(name)?;
            Ok(match name {
                "keys" => Value::View(View::Keys, dict.clone()),
                "values" => Value::View(View::Values, dict.clone()),
                "items" => Value::View(View::Items, dict.clone()),
                _ => Value::Dict(Rc::new(Dict::from_pairs(dict.pairs().iter().cloned())?)),
            })
        }
    }
}

fn list_method(items: &[Value], is_list: bool, name: &str, args: Args) -> Result<Value> {
    match name {
        "count" => {
            let [wanted] = args.places(name)?;
            let wanted = needed(wanted, name, "value")?;
            let mut count = 0_usize;
            for item in items {
                count += usize::from(equal(item, &wanted)?);
            }
            Ok(Value::from(count))
        }
        "index" => {
            let [wanted, start, stop] = args.places(name)?;
            let wanted = needed(wanted, name, "value")?;
            let (start, stop) = search::bounds(start.as_ref(), stop.as_ref(), items.len())?;
            for (at, item) in items.iter().enumerate().take(stop).skip(start) {
                if equal(item, &wanted)? {
                    return Ok(Value::from(at));
                }
            }
            Err(Fault::new(if is_list { "the value is not in list" } else { "tuple.index(x): x not in tuple" }))
        }
        _ => {
            args.places::<0>(name)?;
            Value::list(items.to_vec())
        }
    }
}
