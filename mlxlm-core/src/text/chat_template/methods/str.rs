//! The methods of strings.

use crate::text::python::is_space;

use super::super::eval::{Args, Interp, needed};
use super::super::fault::{Fault, Result, fail};
use super::super::format::braces;
use super::super::limits;
use super::super::markup;
use super::super::sink::written;
use super::super::value::{Text, Value, defined, items_of};
use super::{cases, search, split};

/// Calls a method of a string. What gives a string gives a safe one where it is safe.
pub(super) fn call(interp: &mut Interp, text: &Text, name: &'static str, args: Args) -> Result<Value> {
    limits::pass(text.len())?;
    let safe = text.safe;
    match name {
        "format" => return braces::format(interp, text, &args),
        "format_map" => return braces::format_map(interp, text, args),
        "split" | "rsplit" => return split::split(text, name == "rsplit", args),
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            return split::split_lines(text, keep.is_some_and(|keep| keep.truthy()));
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            return expand_tabs(text, size.map_or(Ok(8), |size| integer(&size))?);
        }
        _ => {}
    }
    let made = match name {
        "count" | "find" | "index" | "rfind" | "rindex" => return search::find(text, name, args),
        "startswith" | "endswith" => return search::starts_or_ends(interp, text, name, args),
        "partition" | "rpartition" => return split::partition(text, name, args),
        "replace" => {
            let [old, new, count] = args.places(name)?;
            let (old, new) = (string(old, name)?, string(new, name)?);
            let new = if safe { markup::escape(&Value::Str(new))? } else { new };
            search::replaced(text, &old, &new, count.map_or(Ok(-1), |count| integer(&count))?)?
        }
        "join" => {
            let [items] = args.places(name)?;
            let items = items_of(interp, &needed(items, name, "iterable")?)?;
            join(text, &items)?
        }
        "ljust" | "rjust" | "center" => {
            let [width, fill] = args.places(name)?;
            let width = integer(&needed(width, name, "width")?)?;
            let fill = fill.map_or_else(|| Text::new(" "), |fill| string(Some(fill), name))?;
            let fill = if safe { markup::escape_text(&fill)? } else { fill };
            if fill.chars().count() != 1 {
                return fail("The fill character must be exactly one character long");
            }
            padded(text, name, width, &fill)?
        }
        "zfill" => {
            let [width] = args.places(name)?;
            zero_filled(text, integer(&needed(width, name, "width")?)?)?
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.places(name)?;
            Text::new(stripped(text, name, chars.as_ref())?)?
        }
        "removeprefix" | "removesuffix" => {
            let [part] = args.places(name)?;
            let part = string(part, name)?;
            let found = if name == "removeprefix" { text.strip_prefix(&*part) } else { text.strip_suffix(&*part) };
            Text::new(found.unwrap_or(text))?
        }
        _ => {
            args.places::<0>(name)?;
            match name {
                "striptags" => return Ok(Value::Str(markup::strip_tags(text)?)),
                "unescape" => return Ok(Value::Str(markup::unescape(text)?)),
                _ => {}
            }
            match cases::changed(text, name)? {
                Some(changed) => changed,
                None => return cases::test(text, name).map(Value::Bool),
            }
        }
    };
    Ok(markup::text(made, safe))
}

/// An argument that is a string.
pub(super) fn string(value: Option<Value>, of: &str) -> Result<Text> {
    match needed(value, of, "string")? {
        Value::Str(text) => Ok(text),
        other => {
            defined(&other)?;
            fail(format!("`{of}` takes a string, not '{}'", other.type_name()))
        }
    }
}

/// An argument that is an integer.
pub(in super::super) fn integer(value: &Value) -> Result<i128> {
    defined(value)?;
    value
        .as_int()
        .ok_or_else(|| Fault::new(format!("'{}' object cannot be interpreted as an integer", value.type_name())))
}

/// `text.join(items)`. A safe text escapes the items.
fn join(text: &Text, items: &[Value]) -> Result<Text> {
    written(|out| {
        for (at, item) in items.iter().enumerate() {
            out.push(if at > 0 { text } else { "" })?;
            match item {
                item if text.safe => out.push(&markup::escape(item)?)?,
                Value::Str(item) => out.push(item)?,
                other => {
                    return fail(format!("sequence item {at}: expected str instance, {} found", other.type_name()));
                }
            }
        }
        Ok(())
    })
}

/// `ljust`, `rjust` and `center`.
pub(in super::super) fn padded(text: &str, method: &str, width: i128, fill: &str) -> Result<Text> {
    let length = text.chars().count();
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let missing = width.saturating_sub(length);
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd one to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    written(|out| {
        out.fill(fill, left)?;
        out.push(text)?;
        out.fill(fill, missing - left)
    })
}

fn zero_filled(text: &str, width: i128) -> Result<Text> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (sign, _) = text.split_at(text.len() - digits.len());
    written(|out| {
        out.push(sign)?;
        out.fill("0", width.saturating_sub(text.chars().count()))?;
        out.push(digits)
    })
}

/// `strip`, `lstrip` and `rstrip`.
pub(in super::super) fn stripped<'t>(text: &'t str, method: &str, chars: Option<&Value>) -> Result<&'t str> {
    let set = match chars {
        None | Some(Value::None) => None,
        Some(Value::Str(chars)) => Some(chars.clone()),
        Some(other) => return fail(format!("`{method}` takes a string or None, not '{}'", other.type_name())),
    };
    if let Some(set) = &set {
        limits::steps((text.len() as u64).saturating_mul(1 + set.len() as u64 / 64) / 16)?;
    }
    let strips = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    Ok(match method {
        "lstrip" => text.trim_start_matches(strips),
        "rstrip" => text.trim_end_matches(strips),
        _ => text.trim_matches(strips),
    })
}

fn expand_tabs(text: &Text, size: i128) -> Result<Value> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let expanded = written(|out| {
        let mut column = 0_usize;
        for c in text.chars() {
            match c {
                '\t' if size > 0 => {
                    let width = size - column % size;
                    out.fill(" ", width)?;
                    column = column.saturating_add(width);
                }
                '\t' => {}
                c => {
                    column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                    out.push_char(c)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(markup::text(expanded, text.safe))
}
