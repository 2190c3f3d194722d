//! Values that are one word: numbers, `true`, `None`, and words without quotes.

use super::super::io::{Io, Read, Stop};
use super::super::out::Sink;
use super::{Syntax, quoted};

/// Reads a word and writes what it stands for.
pub(super) async fn read(io: &Io, syntax: Syntax, sink: &mut Sink<'_>) -> Read {
    let word = match syntax.has_words() {
        true => io.word(|c| !matches!(c, ',' | '}' | ']' | ')')).await,
        false => io.word(|c| !c.is_whitespace() && !matches!(c, ',' | '}' | ']' | ')' | ':' | '"' | '\'')).await,
    };
    let word = word.trim_end();
    let json = match (literal(word), word) {
        (Some(json), _) => json,
        (None, "") => return Err(Stop::Bad(format!("expected a value, found `{}`", io.peek().await?))),
        (None, word) if syntax.has_words() => quoted(word),
        (None, word) => return Err(Stop::Bad(format!("`{}` is no value", shortened(word)))),
    };
    io.write(sink, &json);
    Ok(())
}

/// A constant or a number of JSON or Python, as JSON.
fn literal(word: &str) -> Option<String> {
    match word {
        "true" | "True" => Some("true".into()),
        "false" | "False" => Some("false".into()),
        "null" | "None" => Some("null".into()),
        _ => number(word),
    }
}

/// A number of JSON or Python, as JSON; its digits stay.
pub(in super::super) fn number(word: &str) -> Option<String> {
    if is_json_number(word) {
        return Some(word.to_owned());
    }
    let (sign, digits) = match word.strip_prefix(['-', '+']) {
        Some(digits) => (if word.starts_with('-') { "-" } else { "" }, digits),
        None => ("", word),
    };
    let radix = [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)];
    if let Some((digits, radix)) = radix.iter().find_map(|&(p, radix)| Some((digits.strip_prefix(p)?, radix))) {
        let digits = digits.replace('_', "");
        let is_plain = digits.chars().all(|c| c.is_digit(radix));
        return u128::from_str_radix(&digits, radix).ok().filter(|_| is_plain).map(|n| format!("{sign}{n}"));
    }
    let is_grouped = digits.contains('_')
        && digits.split('_').all(|group| group.bytes().all(|c| c.is_ascii_digit()) && !group.is_empty());
    let mut plain = if is_grouped { digits.replace('_', "") } else { digits.to_owned() };
    if plain.starts_with('.') {
        plain.insert(0, '0');
    }
    if let Some(dot) = plain.find('.')
        && !plain[dot + 1..].starts_with(|c: char| c.is_ascii_digit())
    {
        plain.insert(dot + 1, '0');
    }
    let plain = format!("{sign}{plain}");
    (digits.contains(|c: char| c.is_ascii_digit()) && is_json_number(&plain)).then_some(plain)
}

fn is_json_number(word: &str) -> bool {
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && exponent.is_none_or(digits)
        && fraction.is_none_or(digits)
}

/// The beginning of a word, for a message.
fn shortened(word: &str) -> String {
    match word.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}
