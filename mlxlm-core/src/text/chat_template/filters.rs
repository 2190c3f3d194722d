//! Filters and tests where the engine's own differ from Jinja2's.
//!
//! `tojson` has a file of its own. Filters of Jinja2 that no chat template uses (`center`, `filesizeformat`, `pprint`,
//! `random`, `truncate`, `urlize`, `wordcount`, `xmlattr`) are not there: using one is an error with its line.
#![expect(clippy::needless_pass_by_value, reason = "the engine passes arguments by value")]

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, Value, filters};

use super::{json, repr};

/// Adds them all.
pub(super) fn add_to(environment: &mut Environment) {
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", |value: &Value| Value::from(repr::str(value)));
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.remove_filter("pprint");
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
}

/// The length; an undefined value has none, which is 0.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { filters::length(value) }
}

/// `value|default(default_value='', boolean=false)`: with `boolean`, every false value gets the default.
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = match other {
        Some(other) => other,
        None => kwargs.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => kwargs.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    Ok(if value.is_undefined() || (boolean && !value.is_true()) { other } else { value.clone() })
}

/// `value|int(default=0)`: what is no number gives the default.
fn int(value: &Value, other: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = or_keyword(other, &kwargs, Value::from(0))?;
    let number = match value.kind() {
        ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        ValueKind::Number if value.is_integer() => Some(value.clone()),
        ValueKind::Number => repr::float(value).filter(|x| x.is_finite()).map(|x| Value::from(x.trunc() as i128)),
        _ => value.as_str().map(str::trim).and_then(|text| {
            let float = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x.trunc() as i128);
            text.parse::<i128>().ok().or_else(|| float(text)).map(Value::from)
        }),
    };
    Ok(number.unwrap_or(other))
}

/// `value|float(default=0.0)`: what is no number gives the default.
fn float(value: &Value, other: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = or_keyword(other, &kwargs, Value::from(0.0))?;
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => value.as_str().and_then(|text| text.trim().parse().ok()),
    };
    Ok(number.map_or(other, Value::from))
}

/// The default given by place or by name.
fn or_keyword(given: Option<Value>, kwargs: &Kwargs, otherwise: Value) -> Result<Value, Error> {
    let other = match given {
        Some(given) => Some(given),
        None => kwargs.get("default")?,
    };
    kwargs.assert_all_used()?;
    Ok(other.unwrap_or(otherwise))
}

/// The five characters of HTML, as markupsafe writes them.
fn escape(value: &Value) -> Value {
    let mut out = String::new();
    for c in repr::str(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Value::from(out)
}

/// None can be looped over here, but not in Python.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Strings and mappings are sequences in Jinja2, for they have a length and items.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Undefined
    )
}

/// Macros and functions can be called; so can an undefined value, to an error.
fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
}
