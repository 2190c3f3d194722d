//! Filters of lists and dicts.

use super::super::eval::{Args, Interp, needed};
use super::super::fault::{Fault, Result, fail};
use super::super::limits;
use super::super::methods;
use super::super::value::{Dict, Iter, Object, Value, equal, items_of, sort_by};
use super::Path;

/// `len(value)`.
pub(super) fn length(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.places::<0>("length")?;
    len(interp, &value).map(Value::from)
}

/// `len(value)`.
pub(in super::super) fn len(interp: &mut Interp, value: &Value) -> Result<usize> {
    Ok(match value {
        Value::Undefined(_) => 0,
        Value::Str(text) => {
            limits::pass(text.len())?;
            text.chars().count()
        }
        Value::List(items) | Value::Tuple(items) => items.len(),
        Value::Dict(dict) | Value::View(_, dict) => dict.len(),
        Value::Range(range) => range.len(),
        Value::Object(object) => match &**object {
            Object::Loop(state) => interp.loop_length(state)?,
            _ => return fail(format!("object of type '{}' has no len()", value.type_name())),
        },
        other => return fail(format!("object of type '{}' has no len()", other.type_name())),
    })
}

pub(super) fn list(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("list", [])?;
    Value::list(items_of(interp, &value)?)
}

pub(super) fn first(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("first", [])?;
    let found = match &value {
        Value::Iter(iter) => iter.next(interp)?,
        value => items_of(interp, value)?.into_iter().next(),
    };
    Ok(found.unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")))
}

pub(super) fn last(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("last", [])?;
    if let Value::Iter(_) = value {
        return fail("'generator' object is not reversible");
    }
    let found = reversed(interp, &value)?.into_iter().next();
    Ok(found.unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
}

/// The items from the last to the first. Characters of a safe string are safe, since they are its items.
fn reversed(interp: &mut Interp, value: &Value) -> Result<Vec<Value>> {
    let mut items = items_of(interp, value)?;
    if let Value::Str(text) = value
        && text.safe
    {
        items = items.iter().map(super::super::markup::mark).collect::<Result<_>>()?;
    }
    items.reverse();
    Ok(items)
}

pub(super) fn reverse(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("reverse", [])?;
    match &value {
        Value::Str(text) => {
            limits::pass(text.len())?;
            let made = super::super::sink::written(|out| text.chars().rev().try_for_each(|c| out.push_char(c)))?;
            Ok(super::super::markup::text(made, text.safe))
        }
        Value::Iter(_) => Value::list(reversed(interp, &value)?),
        _ => {
            let items = reversed(interp, &value)?;
            let held = Value::list(items)?;
            Iter::lazy(&[&held.clone()], move |interp| items_of(interp, &held))
        }
    }
}

pub(super) fn items(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("items", [])?;
    Iter::lazy(&[&value.clone()], move |_| match &value {
        Value::Undefined(_) => Ok(Vec::new()),
        Value::Dict(dict) => pairs(dict),
        _ => fail("Can only get item pairs from a mapping."),
    })
}

fn pairs(dict: &Dict) -> Result<Vec<Value>> {
    dict.pairs().iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()])).collect()
}

pub(super) fn dictsort(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [case_sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = &value else {
        super::super::value::defined(&value)?;
        return fail(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let by_value = match by.as_ref().and_then(Value::as_text).map(|by| &**by) {
        None if by.is_none() => false,
        Some("key") => false,
        Some("value") => true,
        _ => return fail("You can only sort by either \"key\" or \"value\""),
    };
    let fold = !case_sensitive.is_some_and(|flag| flag.truthy());
    let mut keyed = Vec::with_capacity(dict.len());
    for (key, value) in dict.pairs() {
        let judged = if by_value { value } else { key };
        let judged = match judged {
            Value::Str(text) if fold => Value::Str(methods::lower(text)?),
            other => other.clone(),
        };
        keyed.push((judged, Value::tuple(vec![key.clone(), value.clone()])?));
    }
    Value::list(sort_by(keyed, reverse.is_some_and(|flag| flag.truthy()))?)
}

pub(super) fn sort(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [reverse, case_sensitive, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let fold = !case_sensitive.is_some_and(|flag| flag.truthy());
    let paths = Path::several(attribute.as_ref(), fold)?;
    let mut keyed = Vec::new();
    for item in items_of(interp, &value)? {
        let key = paths.iter().map(|path| path.follow(interp, &item)).collect::<Result<_>>()?;
        keyed.push((Value::list(key)?, item));
    }
    Value::list(sort_by(keyed, reverse.is_some_and(|flag| flag.truthy()))?)
}

pub(super) fn unique(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let path = Path::new(attribute.as_ref())?.with_case(case_sensitive);
    Iter::lazy(&[&value.clone()], move |interp| {
        let mut seen = Dict::default();
        let mut kept = Vec::new();
        for item in items_of(interp, &value)? {
            let key = path.follow(interp, &item)?;
            let known = seen.len();
            seen.insert(key, Value::None)?;
            if seen.len() > known {
                kept.push(item);
            }
        }
        Ok(kept)
    })
}

pub(super) fn groupby(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [attribute, default, case_sensitive] = args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = needed(attribute, "groupby", "attribute")?;
    let default = default.filter(|default| !matches!(default, Value::None));
    let plain = Path { default, ..Path::new(Some(&attribute))? };
    let path = plain.clone().with_case(case_sensitive);
    let mut keyed = Vec::new();
    for item in items_of(interp, &value)? {
        keyed.push((path.follow(interp, &item)?, item));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sort_by(keyed, false)? {
        let key = path.follow(interp, &item)?;
        match groups.last_mut() {
            Some((last, members)) if equal(last, &key)? => members.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut made = Vec::with_capacity(groups.len());
    for (key, members) in groups {
        let grouper = match members.first() {
            Some(first) if path.fold_case => plain.follow(interp, first)?,
            _ => key,
        };
        made.push(Value::group(grouper, Value::list(members)?)?);
    }
    Value::list(made)
}

pub(super) fn batch(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [count, fill] = args.bind("batch", ["linecount", "fill_with"])?;
    let count = needed(count, "batch", "linecount")?;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let held = Value::list(vec![value, fill.clone().unwrap_or(Value::None)])?;
    Iter::lazy(&[&held.clone()], move |interp| {
        let Value::List(parts) = &held else { return Ok(Vec::new()) };
        let source = parts.first().cloned().unwrap_or(Value::None);
        let items = items_of(interp, &source)?;
        let count = whole(&count)?;
        if count < 1 {
            return fail("`batch` of less than one item is not supported");
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut made = Vec::new();
        for part in items.chunks(count) {
            let mut part = part.to_vec();
            if let Some(fill) = &fill {
                limits::check_size(count.saturating_mul(size_of::<Value>()))?;
                part.resize(count, fill.clone());
            }
            made.push(Value::list(part)?);
        }
        Ok(made)
    })
}

pub(super) fn slice(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [slices, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let slices = needed(slices, "slice", "slices")?;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let held = Value::list(vec![value, fill.clone().unwrap_or(Value::None)])?;
    Iter::lazy(&[&held.clone()], move |interp| {
        let Value::List(parts) = &held else { return Ok(Vec::new()) };
        let source = parts.first().cloned().unwrap_or(Value::None);
        let items = items_of(interp, &source)?;
        let slices = whole(&slices)?;
        if slices == 0 {
            return fail("integer division or modulo by zero");
        }
        let slices = usize::try_from(slices.max(0)).unwrap_or(usize::MAX);
        limits::check_size(slices.saturating_mul(size_of::<Value>()))?;
        let (each, longer) =
            (items.len().checked_div(slices).unwrap_or(0), items.len().checked_rem(slices).unwrap_or(0));
        let mut left = items.into_iter();
        let mut made = Vec::new();
        for at in 0..slices {
            let mut part: Vec<Value> = left.by_ref().take(each + usize::from(at < longer)).collect();
            if at >= longer {
                part.extend(fill.clone());
            }
            made.push(Value::list(part)?);
        }
        Ok(made)
    })
}

fn whole(value: &Value) -> Result<i128> {
    value.as_int().ok_or_else(|| Fault::new(format!("a count must be an integer, not '{}'", value.type_name())))
}
