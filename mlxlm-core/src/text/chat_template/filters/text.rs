//! Filters that make texts.

use std::rc::Rc;

use crate::text::python::is_space;

use super::super::eval::{Args, Interp, needed};
use super::super::fault::{Result, fail};
use super::super::format::percent;
use super::super::limits;
use super::super::markup;
use super::super::methods;
use super::super::sink::{Sink, written};
use super::super::value::{Dict, Text, Value, defined, items_of, print, repr};
use super::{Path, must_be_text, optional_int};

/// `soft_str(value)`: a text as it is, safe or not.
fn soft(value: &Value) -> Result<Text> {
    print(value)
}

fn same_safety(made: Text, of: &Text) -> Value {
    markup::text(made, of.safe)
}

pub(super) fn upper(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("upper", [])?;
    let text = soft(&value)?;
    Ok(same_safety(methods::upper(&text)?, &text))
}

pub(super) fn lower(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("lower", [])?;
    let text = soft(&value)?;
    Ok(same_safety(methods::lower(&text)?, &text))
}

pub(super) fn capitalize(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("capitalize", [])?;
    let text = soft(&value)?;
    Ok(same_safety(methods::capitalize(&text)?, &text))
}

/// Words begin after white space and `- ( { [ <`; the result is not safe.
pub(super) fn title(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("title", [])?;
    let text = soft(&value)?;
    if text.contains('Σ') {
        return fail("a capital sigma is not supported in title case");
    }
    let splits = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let made = written(|out| {
        // Parts that split and words take turns; each begins with a capital where it can.
        let mut part = None;
        for c in text.chars() {
            if part == Some(splits(c)) {
                c.to_lowercase().try_for_each(|c| out.push_char(c))?;
            } else {
                c.to_uppercase().try_for_each(|c| out.push_char(c))?;
            }
            part = Some(splits(c));
        }
        Ok(())
    })?;
    Ok(Value::Str(made))
}

pub(super) fn trim(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [chars] = args.bind("trim", ["chars"])?;
    let text = soft(&value)?;
    limits::pass(text.len())?;
    let chars = match chars {
        Some(Value::Str(set)) => {
            limits::steps((text.len() as u64).saturating_mul(1 + set.len() as u64 / 64) / 16)?;
            return Ok(same_safety(Text::new(text.trim_matches(|c| set.contains(c)))?, &text));
        }
        other => other,
    };
    match chars {
        None | Some(Value::None) => Ok(same_safety(Text::new(text.trim_matches(is_space))?, &text)),
        Some(other) => fail(format!("strip arg must be None or str, not {}", other.type_name())),
    }
}

pub(super) fn center(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [width] = args.bind("center", ["width"])?;
    let text = soft(&value)?;
    Ok(same_safety(methods::padded(&text, "center", optional_int(width, 80)?, " ")?, &text))
}

pub(super) fn string(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("string", [])?;
    Ok(Value::Str(soft(&value)?))
}

pub(super) fn safe(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("safe", [])?;
    markup::mark(&value)
}

pub(super) fn escape(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("escape", [])?;
    Ok(Value::Str(markup::escape(&value)?))
}

pub(super) fn forceescape(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("forceescape", [])?;
    Ok(Value::Str(markup::escape_text(&print(&value)?)?))
}

pub(super) fn striptags(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("striptags", [])?;
    Ok(Value::Str(markup::strip_tags(&print(&value)?)?))
}

pub(super) fn format(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let Args { by_place, by_name } = args;
    if !by_place.is_empty() && !by_name.is_empty() {
        return fail("can't handle positional and keyword arguments at the same time");
    }
    let values = if by_name.is_empty() {
        Value::tuple(by_place)?
    } else {
        let pairs = by_name.into_iter().map(|(name, value)| Ok((Value::str(name)?, value)));
        Value::Dict(Rc::new(Dict::from_pairs(pairs.collect::<Result<Vec<_>>>()?)?))
    };
    percent::format(interp, &soft(&value)?, &values)
}

pub(super) fn replace(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
    let (old, new) = (needed(old, "replace", "old")?, needed(new, "replace", "new")?);
    let count = optional_int(count.filter(|count| !matches!(count, Value::None)), -1)?;
    let (mut text, old, mut new) = (print(&value)?, print(&old)?, print(&new)?);
    if !interp.filters_escape() {
        return Ok(Value::Str(methods::replaced(&text, &old, &new, count)?));
    }
    if old.safe || (new.safe && !text.safe) {
        text = markup::escape(&Value::Str(text))?;
    }
    if text.safe {
        new = markup::escape(&Value::Str(new))?;
    }
    Ok(same_safety(methods::replaced(&text, &old, &new, count)?, &text))
}

pub(super) fn join(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or_else(|| Text::new(""), |separator| print(&separator))?;
    let mut items = items_of(interp, &value)?;
    if let Some(attribute) = attribute.filter(|attribute| !matches!(attribute, Value::None)) {
        let path = Path::new(Some(&attribute))?;
        items = items.iter().map(|item| path.follow(interp, item)).collect::<Result<_>>()?;
    }
    let is_safe = |item: &Value| item.as_text().is_some_and(|text| text.safe);
    let safe = interp.filters_escape() && (separator.safe || items.iter().any(is_safe));
    let separator = if safe { markup::escape(&Value::Str(separator))? } else { separator };
    let made = written(|out| {
        for (at, item) in items.iter().enumerate() {
            out.push(if at > 0 { &separator } else { "" })?;
            out.push(&if safe { markup::escape(item)? } else { print(item)? })?;
        }
        Ok(())
    })?;
    Ok(markup::text(made, safe))
}

pub(super) fn indent(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let text = must_be_text(&value, "indent")?;
    let indention = match width {
        None => Text::new("    ")?,
        Some(Value::Str(indention)) => indention,
        Some(width) => {
            let width = usize::try_from(methods::integer(&width)?.max(0)).unwrap_or(usize::MAX);
            written(|out| out.fill(" ", width))?
        }
    };
    let is_true = |flag: Option<Value>| flag.is_some_and(|flag| flag.truthy());
    let (first, blank) = (is_true(first), is_true(blank));
    if text.safe && indention.contains(['&', '<', '>', '\'', '"']) {
        return fail("an indention with signs of HTML is not supported for a safe string");
    }
    let whole = written(|out| {
        out.push(&text)?;
        out.push("\n")
    })?;
    let made = written(|out| {
        for (at, (line, _)) in methods::lines(&whole)?.into_iter().enumerate() {
            if at > 0 {
                out.push("\n")?;
            }
            if (at == 0 && first) || (at > 0 && (blank || !line.is_empty())) {
                out.push(&indention)?;
            }
            out.push(line)?;
        }
        Ok(())
    })?;
    Ok(same_safety(made, &text))
}

pub(super) fn truncate(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [length, killwords, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = optional_int(length, 255)?;
    let leeway = optional_int(leeway.filter(|leeway| !matches!(leeway, Value::None)), 5)?;
    let end = end.map_or_else(|| Text::new("..."), |end| must_be_text(&end, "truncate"))?;
    let end_length = end.chars().count() as i128;
    if length < end_length || leeway < 0 {
        return fail(format!("`truncate` to {length} characters has no room for its end"));
    }
    let text = match &value {
        Value::Str(text) => text.clone(),
        Value::Undefined(_) => return Ok(value),
        other => return fail(format!("`truncate` takes a string, not '{}'", other.type_name())),
    };
    limits::pass(text.len())?;
    if text.chars().count() as i128 <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let kept: String = text.chars().take(usize::try_from(length - end_length).unwrap_or(0)).collect();
    let whole_words = !killwords.is_some_and(|flag| flag.truthy());
    let kept = if whole_words { kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before) } else { &*kept };
    let made = written(|out| {
        out.push(kept)?;
        if text.safe && !end.safe { markup::escape_into(&end, out) } else { out.push(&end) }
    })?;
    let safe = text.safe || end.safe;
    if end.safe && !text.safe {
        return fail("a safe end of an unsafe string is not supported in `truncate`");
    }
    Ok(markup::text(made, safe))
}

pub(super) fn wordcount(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("wordcount", [])?;
    let text = soft(&value)?;
    limits::pass(text.len())?;
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    Ok(Value::from(words.count()))
}

pub(super) fn xmlattr(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let [autospace] = args.bind("xmlattr", ["autospace"])?;
    defined(&value)?;
    let Value::Dict(dict) = &value else {
        return fail(format!("'{}' object has no attribute 'items'", value.type_name()));
    };
    let mut out = Sink::default();
    let spaced = autospace.is_none_or(|flag| flag.truthy());
    let mut empty = true;
    for (key, value) in dict.pairs() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let name = must_be_text(key, "xmlattr")?;
        if name.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
            return fail(format!("Invalid character in attribute name: {}", &*repr(key)?));
        }
        out.push(if spaced || !empty { " " } else { "" })?;
        empty = false;
        out.push(&markup::escape(key)?)?;
        out.push("=\"")?;
        out.push(&markup::escape(value)?)?;
        out.push("\"")?;
    }
    Ok(markup::text(out.into_text()?, interp.filters_escape()))
}

/// The `repr` of what fits a line of 80; longer values would be broken into lines.
pub(super) fn pprint(_: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("pprint", [])?;
    let made = repr(&value)?;
    if made.chars().count() > 80 {
        return fail("`pprint` of a value longer than a line is not supported");
    }
    if has_dict(&value) {
        return fail("`pprint` of a dict is not supported");
    }
    Ok(Value::Str(made))
}

fn has_dict(value: &Value) -> bool {
    match value {
        Value::Dict(dict) => dict.len() > 1 || dict.pairs().iter().any(|(_, value)| has_dict(value)),
        Value::List(items) | Value::Tuple(items) => items.iter().any(has_dict),
        Value::View(..) | Value::Object(_) => true,
        _ => false,
    }
}
