//! Methods of Python's `str`, `dict` and `list` that templates call, as in `message.content.strip()`.
//!
//! Only methods that change nothing: transformers' sandbox refuses the others too, and so does an unknown method here.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use crate::text::python::{self, is_space};

/// The longest string that padding makes.
const MAX_WIDTH: usize = 1 << 20;

/// Called for a method that the engine itself does not know.
pub(super) fn call(_: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(text, method, args),
        (ValueKind::Seq | ValueKind::Iterable, _) => list_method(value, method, args),
        (ValueKind::Map, _) => map_method(value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn invalid(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

fn map_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if method == "get" {
        let (key, default): (&Value, Option<Value>) = from_args(args)?;
        let found = value.get_item(key)?;
        return Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found });
    }
    let item = |key: &Value| value.get_item(key);
    let listed: Vec<Value> = match method {
        "keys" => value.try_iter()?.collect(),
        "values" => value.try_iter()?.map(|key| item(&key)).collect::<Result<_, _>>()?,
        "items" => {
            let pair = |key: Value| Ok(Value::from(Tuple::from([key.clone(), item(&key)?])));
            value.try_iter()?.map(pair).collect::<Result<_, Error>>()?
        }
        "copy" => {
            let () = from_args(args)?;
            return Ok(value.clone());
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    let () = from_args(args)?;
    Ok(Value::from(listed))
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "count" | "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let items: Vec<Value> = value.try_iter()?.collect();
            if method == "count" {
                return Ok(Value::from(items.iter().filter(|item| *item == wanted).count()));
            }
            let at = items.iter().position(|item| item == wanted);
            at.map(Value::from).ok_or_else(|| invalid(format!("{wanted:?} is not in the list")))
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "strip" | "lstrip" | "rstrip" => strip(text, method, args),
        "split" | "rsplit" => split(text, method, args),
        "find" | "rfind" | "index" | "rindex" | "count" => find(text, method, args),
        "startswith" | "endswith" => starts_or_ends(text, method, args),
        "center" | "ljust" | "rjust" | "zfill" => pad(text, method, args),
        "partition" | "rpartition" => partition(text, method, args),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            let replaced = match count.map(usize::try_from) {
                None | Some(Err(_)) => text.replace(old, new),
                Some(Ok(count)) => text.replacen(old, new, count),
            };
            Ok(Value::from(replaced))
        }
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = match keep_ends {
                Some(keep) => keep,
                None => kwargs.get::<Option<bool>>("keepends")?.unwrap_or(false),
            };
            kwargs.assert_all_used()?;
            Ok(split_lines(text, keep_ends).into_iter().collect())
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let items: Vec<Value> = items.try_iter()?.collect();
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.map(|texts| Value::from(texts.join(text))).ok_or_else(|| invalid("`join` takes strings only"))
        }
        "format" => format(FormatStyle::StrFormat, text, args).map(Value::from),
        _ => case_method(text, method, args),
    }
}

/// Methods without arguments, about letters.
fn case_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let all = |test: fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(test));
    let cased = |is: fn(char) -> bool, is_not: fn(char) -> bool| text.chars().any(is) && !text.chars().any(is_not);
    let value = match method {
        "lower" => Value::from(text.to_lowercase()),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "upper" => Value::from(text.to_uppercase()),
        "swapcase" => {
            text.chars().map(|c| if c.is_uppercase() { lower(c) } else { upper(c) }).collect::<String>().into()
        }
        "capitalize" => Value::from(capitalize(text)),
        "title" => Value::from(title(text)),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => Value::from(text.is_ascii()),
        "islower" => Value::from(cased(char::is_lowercase, char::is_uppercase)),
        "isupper" => Value::from(cased(char::is_uppercase, char::is_lowercase)),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    let () = from_args(args)?;
    Ok(value)
}

fn lower(c: char) -> String {
    c.to_lowercase().collect()
}

fn upper(c: char) -> String {
    c.to_uppercase().collect()
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(upper).unwrap_or_default() + &chars.as_str().to_lowercase()
}

/// A capital after everything that is no letter, and small letters after letters.
fn title(text: &str) -> String {
    let mut in_word = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        out.push_str(&if in_word { lower(c) } else { upper(c) });
        in_word = c.is_alphabetic();
    }
    out
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match method {
        "strip" => text.trim_matches(cut),
        "lstrip" => text.trim_start_matches(cut),
        _ => text.trim_end_matches(cut),
    }))
}

fn split(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => kwargs.get::<Option<&str>>("sep")?,
    };
    let most = match most {
        Some(most) => Some(most),
        None => kwargs.get::<Option<i64>>("maxsplit")?,
    };
    kwargs.assert_all_used()?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let from_end = method == "rsplit";
    if separator == Some("") {
        return Err(invalid("the separator is empty"));
    }
    let mut parts = match separator {
        Some(separator) => split_at(text, separator, most, from_end),
        None => split_words(text, most, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Up to `most` cuts at `separator`, from the front or the end; the parts in the order of the cuts.
fn split_at<'t>(text: &'t str, separator: &str, most: usize, from_end: bool) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while parts.len() < most {
        let found = if from_end { rest.rsplit_once(separator) } else { rest.split_once(separator) };
        let Some((before, after)) = found else { break };
        let (part, remains) = if from_end { (after, before) } else { (before, after) };
        parts.push(part);
        rest = remains;
    }
    parts.push(rest);
    parts
}

/// As [`split_at`], at runs of white space; what is left after `most` cuts keeps the space at its far end.
fn split_words(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let trim = |text| if from_end { python::rstrip(text) } else { str::trim_start_matches(text, is_space) };
    let mut parts = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let found = if from_end { rest.rsplit_once(is_space) } else { rest.split_once(is_space) };
        let (part, remains) = match found {
            Some((before, after)) if parts.len() < most => {
                if from_end {
                    (after, before)
                } else {
                    (before, after)
                }
            }
            _ => (rest, ""),
        };
        parts.push(part);
        rest = trim(remains);
    }
    parts
}

/// The part of the text that Python's `[start:end]` takes, with the number of characters before it.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> (&str, usize) {
    let length = text.chars().count();
    let place = |given: i64| {
        let from_front = if given < 0 { given.saturating_add_unsigned(length as u64) } else { given };
        usize::try_from(from_front).unwrap_or(0).min(length)
    };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place));
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    (text.get(byte(start)..byte(end)).unwrap_or(""), start)
}

fn find(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (part, skipped) = window(text, start, end);
    if method == "count" {
        let count = if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(wanted).count() };
        return Ok(Value::from(count));
    }
    let at = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
    match at {
        Some(at) => Ok(Value::from(skipped + part[..at].chars().count())),
        None if method.ends_with("index") => Err(invalid("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

fn starts_or_ends(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let (part, _) = window(text, start, end);
    let test = |wanted: &str| if method == "startswith" { part.starts_with(wanted) } else { part.ends_with(wanted) };
    if let Some(wanted) = wanted.as_str() {
        return Ok(Value::from(test(wanted)));
    }
    let several: Vec<Value> = wanted.try_iter()?.collect();
    let several: Option<Vec<&str>> = several.iter().map(Value::as_str).collect();
    let several = several.ok_or_else(|| invalid(format!("`{method}` takes a string or a tuple of strings")))?;
    Ok(Value::from(several.into_iter().any(test)))
}

fn partition(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("the separator is empty"));
    }
    let parts = match method {
        "partition" => text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b]),
        _ => text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b]),
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn pad(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let width = usize::try_from(width).unwrap_or(0);
    if width > MAX_WIDTH {
        return Err(invalid(format!("`{method}` makes strings of up to {MAX_WIDTH} characters")));
    }
    let missing = width.saturating_sub(text.chars().count());
    if method == "zfill" {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let sign = &text[..text.len() - digits.len()];
        return Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(missing))));
    }
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid("the fill is one character"));
    }
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd one to the left where the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(Value::from(fill.repeat(left) + text + &fill.repeat(missing - left)))
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<Value> {
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(Value::from(&rest[..if keep_ends { at + end } else { at }]));
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}
