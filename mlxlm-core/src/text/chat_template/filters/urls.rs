//! Filters of web addresses.

use super::super::eval::{Args, Interp};
use super::super::fault::{Result, fail};
use super::super::limits;
use super::super::markup;
use super::super::sink::{Sink, written};
use super::super::value::{Value, items_of, pairs_of, print};
use super::optional_int;

/// `url_quote(value)`: bytes as `%XX`, but for letters, digits, `_.-~` and `/`, which queries quote too.
fn quote(value: &Value, in_query: bool, out: &mut Sink) -> Result<()> {
    for byte in print(value)?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push_char(char::from(byte))?,
            b'/' if !in_query => out.push("/")?,
            b' ' if in_query => out.push("+")?,
            byte => out.push(&format!("%{byte:02X}"))?,
        }
    }
    Ok(())
}

pub(super) fn urlencode(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    args.bind::<0>("urlencode", [])?;
    let is_list = !matches!(
        value,
        Value::Str(_) | Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Object(_)
    );
    let pairs = if is_list { pairs_of(interp, &value)? } else { Vec::new() };
    let made = written(|out| {
        if !is_list {
            return quote(&value, false, out);
        }
        for (at, (key, value)) in pairs.iter().enumerate() {
            out.push(if at > 0 { "&" } else { "" })?;
            quote(key, true, out)?;
            out.push("=")?;
            quote(value, true, out)?;
        }
        Ok(())
    })?;
    Ok(Value::Str(made))
}

pub(super) fn urlize(interp: &mut Interp, value: Value, args: Args) -> Result<Value> {
    let parameters = ["trim_url_limit", "nofollow", "target", "rel", "extra_schemes"];
    let [limit, nofollow, target, rel, schemes] = args.bind("urlize", parameters)?;
    if schemes.is_some_and(|schemes| !matches!(schemes, Value::None)) {
        return fail("`extra_schemes` of `urlize` is not supported");
    }
    let limit = match limit {
        None | Some(Value::None) => None,
        limit => Some(usize::try_from(optional_int(limit, 0)?).unwrap_or(0)),
    };
    let rel = match &rel {
        None | Some(Value::None) => Vec::new(),
        Some(rel) => items_of(interp, rel).and_then(|_| print(rel)).map(|rel| vec![rel])?,
    };
    let mut parts: Vec<&str> = rel.iter().flat_map(|rel| super::methods::words(rel)).collect();
    parts.push("noopener");
    if nofollow.is_some_and(|flag| flag.truthy()) {
        parts.push("nofollow");
    }
    parts.sort_unstable();
    parts.dedup();
    let mut attributes = format!(" rel=\"{}\"", &*markup::escape_text(&parts.join(" "))?);
    if let Some(target) = target.filter(Value::truthy) {
        attributes = attributes + " target=\"" + &markup::escape(&target)? + "\"";
    }
    let text = markup::escape(&value)?;
    limits::pass(text.len())?;
    let made = written(|out| {
        let mut rest = &*text;
        while let Some(first) = rest.chars().next() {
            let space = crate::text::python::is_space(first);
            let length = rest.find(|c| crate::text::python::is_space(c) != space).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            if space {
                out.push(word)?;
            } else {
                link(word, limit, &attributes, out)?;
            }
            rest = after;
        }
        Ok(())
    })?;
    Ok(markup::text(made, interp.filters_escape()))
}

/// A word that holds no address stays as it is; which of the others are addresses is left to plain cases.
fn link(word: &str, limit: Option<usize>, attributes: &str, out: &mut Sink) -> Result<()> {
    let is_plain = !word.contains('@') && !word.contains("://") && !word.contains("mailto:");
    let has_domain = word.contains('.') && word.trim_end_matches('.').contains('.');
    if is_plain && !has_domain {
        return out.push(word);
    }
    let address = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"));
    let simple = |rest: &str| {
        let host = rest.split('/').next().unwrap_or("");
        let domain = host.rsplit_once('.').map_or("", |(_, domain)| domain);
        host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
            && host.starts_with(|c: char| c.is_ascii_alphanumeric())
            && domain.len() >= 2
            && domain.bytes().all(|b| b.is_ascii_alphabetic())
            && !host.contains("..")
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'/' | b'_' | b'~'))
            && !rest.ends_with('.')
    };
    match address {
        Some(rest) if simple(rest) => {
            out.push("<a href=\"")?;
            out.push(word)?;
            out.push("\"")?;
            out.push(attributes)?;
            out.push(">")?;
            match limit {
                Some(limit) if word.chars().count() > limit => {
                    out.push(&word.chars().take(limit).collect::<String>())?;
                    out.push("...")?;
                }
                _ => out.push(word)?,
            }
            out.push("</a>")
        }
        _ => fail("`urlize` of this text is not supported: write the link out"),
    }
}
