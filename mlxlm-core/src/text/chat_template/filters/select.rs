//! Filters that choose, and those that apply others.

use super::super::access;
use super::super::eval::{Args, Interp, needed};
use super::super::fault::{Fault, Result, fail};
use super::super::tests;
use super::super::value::{Iter, Value, items_of};
use super::{Path, must_be_text, named};

pub(super) fn default(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [default, boolean] = args.bind("default", ["default_value", "boolean"])?;
    let replaced =
        matches!(value, Value::Undefined(_)) || (boolean.is_some_and(|flag| flag.truthy()) && !value.truthy());
    match default {
        _ if !replaced => Ok(value),
        Some(default) => Ok(default),
        None => Value::str(""),
    }
}

/// The attribute, never the item.
pub(super) fn attr(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [name] = args.bind("attr", ["name"])?;
    let name = must_be_text(&needed(name, "attr", "name")?, "attr")?;
    if let Value::Dict(dict) = &value
        && dict.get_str(&name)?.is_some()
        && matches!(super::methods::find(&value, &name), super::methods::Kind::None)
    {
        return Ok(Value::undefined(format!("'dict object' has no attribute '{}'", &*name)));
    }
    access::attribute(interp, &value, &name)
}

/// Several values in one, so that a generator knows how deep they are.
fn held(value: Value, args: &Args) -> Result<Value> {
    let mut all = vec![value];
    all.extend(args.by_place.iter().cloned());
    all.extend(args.by_name.iter().map(|(_, value)| value.clone()));
    Value::list(all)
}

pub(super) fn map(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let all = held(value.clone(), &args)?;
    Iter::lazy(&[&all], move |interp| {
        if !value.truthy() {
            return Ok(Vec::new());
        }
        let work = Mapping::new(args)?;
        let items = items_of(interp, &value)?;
        items.into_iter().map(|item| work.apply(interp, item)).collect()
    })
}

enum Mapping {
    Attribute(Path),
    Filter(super::Filter, Args),
}

impl Mapping {
    fn new(mut args: Args) -> Result<Self> {
        let at = args.by_name.iter().position(|(name, _)| name == "attribute");
        if let (true, Some(at)) = (args.by_place.is_empty(), at) {
            let (_, attribute) = args.by_name.remove(at);
            let default = args.by_name.iter().position(|(name, _)| name == "default");
            let default = default.map(|at| args.by_name.remove(at).1).filter(|given| !matches!(given, Value::None));
            if let Some((name, _)) = args.by_name.first() {
                return fail(format!("Unexpected keyword argument '{name}'"));
            }
            return Ok(Self::Attribute(Path { default, ..Path::new(Some(&attribute))? }));
        }
        if args.by_place.is_empty() {
            return fail("map requires a filter argument");
        }
        let name = args.by_place.remove(0);
        let filter = named(&must_be_text(&name, "map")?)?;
        Ok(Self::Filter(filter, args))
    }

    fn apply(&self, interp: &mut Interp, item: Value) -> Result<Value> {
        match self {
            Self::Attribute(path) => path.follow(interp, &item),
            Self::Filter(filter, args) => filter(interp, item, args.clone()),
        }
    }
}

/// `select` and its kin: `wanted` is what the test must say, and with `by_attribute` it looks at an attribute.
fn choose(value: Value, mut args: Args, wanted: bool, by_attribute: bool) -> Result<Value> {
    let all = held(value.clone(), &args)?;
    Iter::lazy(&[&all], move |interp| {
        if !value.truthy() {
            return Ok(Vec::new());
        }
        let path = if by_attribute {
            if args.by_place.is_empty() {
                return fail("Missing parameter for attribute name");
            }
            Path::new(Some(&args.by_place.remove(0)))?
        } else {
            Path::default()
        };
        let test = if args.by_place.is_empty() { None } else { Some(args.by_place.remove(0)) };
        let test = test.map(|name| must_be_text(&name, "select")).transpose()?;
        let mut kept = Vec::new();
        for item in items_of(interp, &value)? {
            let judged = path.follow(interp, &item)?;
            let holds = match &test {
                Some(test) if !tests::exists(test) => return Err(Fault::new(format!("No test named '{}'.", &**test))),
                Some(test) => tests::call(interp, test, &judged, args.clone())?,
                None => judged.truthy(),
            };
            if holds == wanted {
                kept.push(item);
            }
        }
        Ok(kept)
    })
}

pub(super) fn select(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    choose(value, args, true, false)
}

pub(super) fn reject(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    choose(value, args, false, false)
}

pub(super) fn selectattr(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    choose(value, args, true, true)
}

pub(super) fn rejectattr(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    choose(value, args, false, true)
}
