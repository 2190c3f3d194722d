//! The methods of strings about letters: their case, and what kind of characters they are.

use crate::text::python::is_space;

use super::super::fault::{Result, fail};
use super::super::limits;
use super::super::sink::{Sink, written};
use super::super::value::Text;

/// A method that changes a string; `None` where it is none of these.
pub(super) fn changed(text: &str, method: &str) -> Result<Option<Text>> {
    Ok(Some(match method {
        "upper" => upper(text)?,
        "lower" => lower(text)?,
        "capitalize" => capitalize(text)?,
        "title" => title(text)?,
        "swapcase" => swap_case(text)?,
        "casefold" => case_fold(text)?,
        _ => return Ok(None),
    }))
}

/// `text.upper()`.
pub(in super::super) fn upper(text: &str) -> Result<Text> {
    limits::check_size(text.len().saturating_mul(3) / 2)?;
    Text::new(text.to_uppercase())
}

/// `text.lower()`.
pub(in super::super) fn lower(text: &str) -> Result<Text> {
    limits::check_size(text.len().saturating_mul(3) / 2)?;
    Text::new(text.to_lowercase())
}

/// Writes a character in title case: the capital, except for the few that have a form of their own.
fn title_char(c: char, out: &mut Sink) -> Result<()> {
    match c {
        'Ǆ' | 'ǅ' | 'ǆ' => return out.push("ǅ"),
        'Ǉ' | 'ǈ' | 'ǉ' => return out.push("ǈ"),
        'Ǌ' | 'ǋ' | 'ǌ' => return out.push("ǋ"),
        'Ǳ' | 'ǲ' | 'ǳ' => return out.push("ǲ"),
        '\u{10d0}'..='\u{10ff}' => return out.push_char(c),
        '\u{1f80}'..='\u{1fff}' if c.to_uppercase().count() > 1 => {
            return fail("Greek letters with an iota below are not supported in title case");
        }
        _ => {}
    }
    let mut upper = c.to_uppercase();
    if let Some(first) = upper.next() {
        out.push_char(first)?;
    }
    upper.flat_map(char::to_lowercase).try_for_each(|rest| out.push_char(rest))
}

/// `text.capitalize()`.
pub(in super::super) fn capitalize(text: &str) -> Result<Text> {
    written(|out| {
        let mut chars = text.chars();
        if let Some(first) = chars.next() {
            title_char(first, out)?;
        }
        out.push(&rest_lower(text, chars.as_str())?)
    })
}

/// The lower case of the end of a text; whether a sigma is a final one depends on what is before it.
fn rest_lower(text: &str, rest: &str) -> Result<Text> {
    if rest.contains('Σ') && text.len() != rest.len() {
        return fail("a capital sigma is not supported here");
    }
    lower(rest)
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// `text.title()`.
fn title(text: &str) -> Result<Text> {
    if text.contains('Σ') {
        return fail("a capital sigma is not supported in title case");
    }
    written(|out| {
        let mut in_word = false;
        for c in text.chars() {
            if in_word {
                c.to_lowercase().try_for_each(|c| out.push_char(c))?;
            } else {
                title_char(c, out)?;
            }
            in_word = is_cased(c);
        }
        Ok(())
    })
}

fn swap_case(text: &str) -> Result<Text> {
    if text.contains('Σ') {
        return fail("a capital sigma is not supported here");
    }
    written(|out| {
        for c in text.chars() {
            if c.is_uppercase() {
                c.to_lowercase().try_for_each(|c| out.push_char(c))?;
            } else if c.is_lowercase() {
                c.to_uppercase().try_for_each(|c| out.push_char(c))?;
            } else {
                out.push_char(c)?;
            }
        }
        Ok(())
    })
}

/// `text.casefold()`: the lower case, for the letters where it is no more than that, and the sharp s.
fn case_fold(text: &str) -> Result<Text> {
    written(|out| {
        for c in text.chars() {
            match c {
                'ß' | 'ẞ' => out.push("ss")?,
                c if c.is_ascii() || (!c.is_lowercase() && !c.is_uppercase()) => {
                    out.push_char(c.to_ascii_lowercase())?;
                }
                'À'..='ÿ' | 'Ā'..='ľ' | 'А'..='я' | 'ё' | 'Ё' | 'α'..='ρ' | 'σ'..='ω' | 'Α'..='Ω' => {
                    c.to_lowercase().try_for_each(|c| out.push_char(c))?;
                }
                c => return fail(format!("`casefold` of {c:?} is not supported")),
            }
        }
        Ok(())
    })
}

/// `text.islower()`.
pub(in super::super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| is_cased(c) && !c.is_lowercase())
}

/// `text.isupper()`.
pub(in super::super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| is_cased(c) && !c.is_uppercase())
}

/// A method that says what a string is made of.
pub(super) fn test(text: &str, method: &str) -> Result<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let digits = || {
        // Which other digits count differs between the three methods.
        match text.chars().find(|c| !c.is_ascii() && c.is_numeric()) {
            Some(c) => fail(format!("`{method}` of {c:?} is not supported")),
            None => Ok(all(|c| c.is_ascii_digit())),
        }
    };
    Ok(match method {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(|c| c.is_alphabetic() && !c.is_numeric()),
        "isascii" => text.is_ascii(),
        "isdecimal" | "isdigit" | "isnumeric" => digits()?,
        "isidentifier" => {
            text.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && text.chars().all(|c| c.is_alphanumeric() || c == '_')
        }
        "islower" => is_lower(text),
        "isupper" => is_upper(text),
        "isprintable" => text.chars().all(super::super::value::is_printable),
        "isspace" => all(is_space),
        "istitle" => is_title(text),
        _ => return fail(format!("'str' object has no attribute '{method}'")),
    })
}

fn is_title(text: &str) -> bool {
    let mut found = false;
    let mut in_word = false;
    for c in text.chars() {
        let starts = c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ');
        if starts == in_word && is_cased(c) {
            return false;
        }
        in_word = is_cased(c);
        found = found || in_word;
    }
    found
}
