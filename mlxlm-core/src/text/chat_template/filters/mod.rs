//! The filters of Jinja2, and `tojson` as transformers has it.
//!
//! Reference: Jinja2's `filters.py`. What depends on chance (`random`) is refused.
#![expect(clippy::needless_pass_by_value, reason = "all filters are of one type, and some keep their value")]

mod numbers;
mod select;
mod sequences;
mod text;
mod urls;
mod wrap;

use super::access;
use super::eval::{Args, Interp};
use super::fault::{Fault, Result, fail};
use super::value::{Value, defined};
use super::{json, methods};

/// A filter: it takes the value and the arguments.
pub(super) type Filter = fn(&mut Interp, Value, Args) -> Result<Value>;

/// The filter of a name.
pub(super) fn find(name: &str) -> Option<Filter> {
    Some(match name {
        "abs" => numbers::abs,
        "attr" => select::attr,
        "batch" => sequences::batch,
        "capitalize" => text::capitalize,
        "center" => text::center,
        "count" | "length" => sequences::length,
        "d" | "default" => select::default,
        "dictsort" => sequences::dictsort,
        "e" | "escape" => text::escape,
        "filesizeformat" => numbers::filesizeformat,
        "first" => sequences::first,
        "float" => numbers::float,
        "forceescape" => text::forceescape,
        "format" => text::format,
        "groupby" => sequences::groupby,
        "indent" => text::indent,
        "int" => numbers::int,
        "items" => sequences::items,
        "join" => text::join,
        "last" => sequences::last,
        "list" => sequences::list,
        "lower" => text::lower,
        "map" => select::map,
        "max" => numbers::max,
        "min" => numbers::min,
        "pprint" => text::pprint,
        "random" => random,
        "reject" => select::reject,
        "rejectattr" => select::rejectattr,
        "replace" => text::replace,
        "reverse" => sequences::reverse,
        "round" => numbers::round,
        "safe" => text::safe,
        "select" => select::select,
        "selectattr" => select::selectattr,
        "slice" => sequences::slice,
        "sort" => sequences::sort,
        "string" => text::string,
        "striptags" => text::striptags,
        "sum" => numbers::sum,
        "title" => text::title,
        "tojson" => json::tojson,
        "trim" => text::trim,
        "truncate" => text::truncate,
        "unique" => sequences::unique,
        "upper" => text::upper,
        "urlencode" => urls::urlencode,
        "urlize" => urls::urlize,
        "wordcount" => text::wordcount,
        "wordwrap" => wrap::wordwrap,
        "xmlattr" => text::xmlattr,
        _ => return None,
    })
}

fn random(_: &mut Interp, _: Value, _: Args) -> Result<Value> {
    fail("`random` is not supported: a prompt must not depend on chance")
}

/// The filter of a name that was given as a value.
fn named(name: &str) -> Result<Filter> {
    find(name).ok_or_else(|| Fault::new(format!("No filter named '{name}'.")))
}

/// A way from an item to what it is judged by: `a.b.0`, or a number.
#[derive(Clone, Default)]
struct Path {
    steps: Vec<Value>,
    default: Option<Value>,
    fold_case: bool,
}

impl Path {
    fn new(attribute: Option<&Value>) -> Result<Self> {
        let steps = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(path)) => path.split('.').map(Self::step).collect::<Result<_>>()?,
            Some(other) => vec![other.clone()],
        };
        Ok(Self { steps, ..Self::default() })
    }

    fn step(part: &str) -> Result<Value> {
        match part.parse::<u32>() {
            Ok(at) if part.bytes().all(|b| b.is_ascii_digit()) => Ok(Value::Int(at.into())),
            _ => Value::str(part),
        }
    }

    /// Several ways, with commas between them.
    fn several(attribute: Option<&Value>, fold_case: bool) -> Result<Vec<Self>> {
        let paths = match attribute {
            Some(Value::Str(paths)) => {
                paths.split(',').map(|path| Self::new(Some(&Value::str(path)?))).collect::<Result<Vec<_>>>()?
            }
            other => vec![Self::new(other)?],
        };
        Ok(paths.into_iter().map(|path| Self { fold_case, ..path }).collect())
    }

    fn with_case(self, case_sensitive: Option<Value>) -> Self {
        Self { fold_case: !case_sensitive.is_some_and(|given| given.truthy()), ..self }
    }

    fn follow(&self, interp: &mut Interp, item: &Value) -> Result<Value> {
        let mut value = item.clone();
        for step in &self.steps {
            value = access::item(interp, &value, step)?;
            if let (Value::Undefined(_), Some(default)) = (&value, &self.default) {
                value = default.clone();
            }
        }
        match &value {
            Value::Str(text) if self.fold_case => Ok(Value::Str(methods::lower(text)?.marked(text.safe))),
            _ => Ok(value),
        }
    }
}

/// An optional integer, with Python's error for other values.
fn optional_int(value: Option<Value>, default: i128) -> Result<i128> {
    value.map_or(Ok(default), |value| methods::integer(&value))
}

/// The text of a value that must be a string.
fn must_be_text(value: &Value, of: &str) -> Result<super::value::Text> {
    defined(value)?;
    match value {
        Value::Str(text) => Ok(text.clone()),
        other => fail(format!("`{of}` takes a string, not '{}'", other.type_name())),
    }
}
