//! The values of a template: those of Python that a chat template can meet.
//!
//! Lists and dicts never change, since transformers renders in the immutable sandbox. A container knows how deep it is,
//! so nothing is nested deeper than what can be walked and dropped.

mod compare;
mod dict;
mod iter;
mod object;
mod repr;
mod text;

use std::rc::Rc;

use serde_json::Value as Json;

use super::fault::{Fault, Result, fail};
use super::limits;

pub(super) use compare::{Order, contains, equal, ordered, sort_by};
pub(super) use dict::Dict;
pub(super) use iter::{Iter, Range, items_of, pairs_of};
pub(super) use object::{Global, Object};
pub(super) use repr::{is_printable, print, repr};
pub(super) use text::Text;

/// What one item of a list counts for, in bytes.
const ITEM: usize = size_of::<Value>();
/// What a container counts for besides its items, in bytes.
const CONTAINER: usize = 64;

/// A value of Python.
#[derive(Clone)]
pub(super) enum Value {
    /// A name or a key that is not there; says what it was.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    /// Python's integers have no bounds; larger ones are refused where they would arise.
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    /// `dict.keys()`, `.values()` or `.items()`.
    View(View, Rc<Dict>),
    Range(Range),
    /// A generator, which can be read once.
    Iter(Rc<Iter>),
    Object(Rc<Object>),
}

/// Which part of a dict a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// The items of a list or a tuple.
pub(super) struct Items {
    all: Vec<Value>,
    depth: u32,
    /// Whether it is a pair of `groupby`, whose fields have names.
    pub(super) grouped: bool,
}

impl Items {
    fn new(items: Vec<Value>) -> Result<Rc<Self>> {
        limits::hold(CONTAINER + ITEM * items.len())?;
        limits::steps(items.len() as u64)?;
        // From here on dropping gives back what was counted.
        let mut made = Self { all: items, depth: 0, grouped: false };
        made.depth = deeper(&made.all)?;
        Ok(Rc::new(made))
    }
}

impl std::ops::Deref for Items {
    type Target = [Value];
    fn deref(&self) -> &[Value] {
        &self.all
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        limits::release(CONTAINER + ITEM * self.all.len());
    }
}

/// The depth of what holds these values.
fn deeper<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<u32> {
    let depth = 1 + values.into_iter().map(Value::depth).max().unwrap_or(0);
    if depth > limits::MAX_NESTING {
        return Err(Fault::limit(format!("its values are nested deeper than {}", limits::MAX_NESTING)));
    }
    Ok(depth)
}

impl Value {
    pub(super) fn str(text: impl Into<String>) -> Result<Self> {
        Ok(Self::Str(Text::new(text.into())?))
    }

    pub(super) fn list(items: Vec<Self>) -> Result<Self> {
        Ok(Self::List(Items::new(items)?))
    }

    pub(super) fn tuple(items: Vec<Self>) -> Result<Self> {
        Ok(Self::Tuple(Items::new(items)?))
    }

    /// A pair of `groupby`: a tuple with the names `grouper` and `list`.
    pub(super) fn group(grouper: Self, list: Self) -> Result<Self> {
        let mut items = Items::new(vec![grouper, list])?;
        if let Some(items) = Rc::get_mut(&mut items) {
            items.grouped = true;
        }
        Ok(Self::Tuple(items))
    }

    pub(super) fn undefined(what: impl AsRef<str>) -> Self {
        Self::Undefined(Rc::from(what.as_ref()))
    }

    pub(super) fn object(object: Object) -> Self {
        Self::Object(Rc::new(object))
    }

    /// How deep it is nested.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth(),
            Self::Iter(iter) => iter.depth(),
            Self::Object(object) => object.depth(),
            _ => 0,
        }
    }

    /// A value from JSON, as `json.loads` reads it.
    pub(super) fn from_json(json: &Json) -> Result<Self> {
        Self::from_json_at(json, 0)
    }

    fn from_json_at(json: &Json, depth: u32) -> Result<Self> {
        if depth > limits::MAX_NESTING {
            return Err(Fault::limit(format!("the messages are nested deeper than {}", limits::MAX_NESTING)));
        }
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(n), _, _) => Self::Int(n.into()),
                (_, Some(n), _) => Self::Int(n.into()),
                (_, _, Some(x)) => Self::Float(x),
                _ => return fail(format!("the number {n} cannot be read")),
            },
            Json::String(text) => Self::str(text.as_str())?,
            Json::Array(items) => {
                Self::list(items.iter().map(|item| Self::from_json_at(item, depth + 1)).collect::<Result<_>>()?)?
            }
            Json::Object(fields) => {
                let mut dict = Dict::default();
                for (key, value) in fields {
                    dict.insert(Self::str(key.as_str())?, Self::from_json_at(value, depth + 1)?)?;
                }
                Self::Dict(Rc::new(dict))
            }
        })
    }

    /// `bool(value)`.
    pub(super) fn truthy(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(x) => *x != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len() > 0,
            Self::Range(range) => range.len() > 0,
            Self::Iter(_) | Self::Object(_) => true,
        }
    }

    /// An integer, which a bool is too.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(b) => Some(i128::from(*b)),
            Self::Int(n) => Some(*n),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&Text> {
        if let Self::Str(text) = self { Some(text) } else { None }
    }

    /// The name of its type, as in Python's errors.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(text) if text.safe => "Markup",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iter(_) => "generator",
            Self::Object(object) => object.type_name(),
        }
    }

    /// `a is b`, as far as it can be said: equal small values are one in Python.
    pub(super) fn same(&self, other: &Self) -> Result<bool> {
        Ok(match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::List(a), Self::List(b)) => Rc::ptr_eq(a, b),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::Iter(a), Self::Iter(b)) => Rc::ptr_eq(a, b),
            (Self::Object(a), Self::Object(b)) => Rc::ptr_eq(a, b),
            (Self::Int(a), Self::Int(b)) if a != b || (-5..=256).contains(a) => a == b,
            (Self::Str(a), Self::Str(b)) if **a != **b || a.same(b) => **a == **b,
            (Self::Tuple(a), Self::Tuple(b)) if Rc::ptr_eq(a, b) || (a.is_empty() && b.is_empty()) => true,
            (a, b) if a.type_name() != b.type_name() => false,
            _ => return fail("whether two equal values are one object is Python's own affair: compare them with `==`"),
        })
    }
}

/// Refuses what an undefined value refuses.
pub(super) fn defined(value: &Value) -> Result<()> {
    match value {
        Value::Undefined(what) => Err(Fault::new(&**what)),
        _ => Ok(()),
    }
}
