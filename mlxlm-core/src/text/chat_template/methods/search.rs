//! The methods of strings that look for a part.

use super::super::eval::{Args, Interp, needed};
use super::super::fault::{Result, fail};
use super::super::limits;
use super::super::sink::written;
use super::super::value::{Text, Value, items_of};
use super::str::{integer, string};

/// The bounds that optional `start` and `stop` mean in a length; `start` may lie beyond it.
pub(super) fn bounds(start: Option<&Value>, stop: Option<&Value>, len: usize) -> Result<(usize, usize)> {
    let index = |value: Option<&Value>, default: usize, clamp: bool| match value {
        None | Some(Value::None) => Ok(default),
        Some(value) => {
            let at = integer(value)?;
            let at = if at < 0 { (at.saturating_add(len as i128)).max(0) } else { at };
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            Ok(if clamp { at.min(len) } else { at })
        }
    };
    Ok((index(start, 0, false)?, index(stop, len, true)?))
}

/// The part of a text between optional bounds, and the characters before it; `None` where the bounds hold nothing, not
/// even an empty text.
fn window<'t>(text: &'t str, start: Option<&Value>, stop: Option<&Value>) -> Result<Option<(&'t str, usize)>> {
    if start.is_none() && stop.is_none() {
        return Ok(Some((text, 0)));
    }
    let length = text.chars().count();
    let (start, stop) = bounds(start, stop, length)?;
    if start > stop {
        return Ok(None);
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok(text.get(byte(start)..byte(stop)).map(|part| (part, start)))
}

/// `count`, `find`, `index`, `rfind` and `rindex`.
pub(super) fn find(text: &str, method: &str, args: Args) -> Result<Value> {
    let [wanted, start, stop] = args.places(method)?;
    let wanted = string(wanted, method)?;
    let Some((part, skipped)) = window(text, start.as_ref(), stop.as_ref())? else {
        return match method {
            "count" => Ok(Value::from(0_usize)),
            _ if method.ends_with("index") => fail("substring not found"),
            _ => Ok(Value::Int(-1)),
        };
    };
    if method == "count" {
        let count = if wanted.is_empty() { part.chars().count() + 1 } else { part.matches(&*wanted).count() };
        return Ok(Value::from(count));
    }
    let at = if method.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) };
    match at.and_then(|at| part.get(..at)) {
        Some(before) => Ok(Value::from(skipped + before.chars().count())),
        None if method.ends_with("index") => fail("substring not found"),
        None => Ok(Value::Int(-1)),
    }
}

/// `startswith` and `endswith`.
pub(super) fn starts_or_ends(interp: &mut Interp, text: &str, method: &str, args: Args) -> Result<Value> {
    let [wanted, start, stop] = args.places(method)?;
    let wanted = needed(wanted, method, "prefix")?;
    let wanted = match &wanted {
        Value::Str(_) => vec![wanted],
        Value::Tuple(_) => items_of(interp, &wanted)?,
        other => {
            return fail(format!("{method} first arg must be str or a tuple of str, not {}", other.type_name()));
        }
    };
    let window = window(text, start.as_ref(), stop.as_ref())?;
    for part in wanted {
        let part = string(Some(part), method)?;
        let found = window.is_some_and(|(text, _)| match method {
            "startswith" => text.starts_with(&*part),
            _ => text.ends_with(&*part),
        });
        if found {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// `text.replace(old, new, count)`, all of them where the count is negative.
pub(in super::super) fn replaced(text: &str, old: &str, new: &str, count: i128) -> Result<Text> {
    let count = if count < 0 { usize::MAX } else { usize::try_from(count).unwrap_or(usize::MAX) };
    limits::pass(text.len())?;
    written(|out| {
        if old.is_empty() {
            // An empty text is found around each character.
            let mut left = count;
            for c in text.chars() {
                if left > 0 {
                    out.push(new)?;
                    left -= 1;
                }
                out.push_char(c)?;
            }
            return if left > 0 { out.push(new) } else { Ok(()) };
        }
        let mut rest = text;
        for _ in 0..count {
            let Some((before, after)) = rest.split_once(old) else { break };
            out.push(before)?;
            out.push(new)?;
            rest = after;
        }
        out.push(rest)
    })
}
