//! Numbers and the escapes of strings, as Python reads them.

use super::super::fault::{Fault, Result, fail};

/// The length of digits with single `_` between them.
fn digits(text: &str, base: u32) -> usize {
    let mut length = 0;
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(|b| char::from(*b).is_digit(base));
    loop {
        if is_digit(length) {
            length += 1;
        } else if length > 0 && bytes.get(length) == Some(&b'_') && is_digit(length + 1) {
            length += 2;
        } else {
            return length;
        }
    }
}

/// The length of a number with a fraction or an exponent; `None` where it has neither.
pub(super) fn float_length(text: &str) -> Option<usize> {
    let whole = digits(text, 10);
    let after = |at: usize| text.get(at..).unwrap_or("");
    let fraction = after(whole).strip_prefix('.').map_or(0, |rest| digits(rest, 10));
    let mantissa = if fraction > 0 { whole + 1 + fraction } else { whole };
    let exponent = after(mantissa).strip_prefix(['e', 'E']).map_or(0, |rest| {
        let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let count = digits(unsigned, 10);
        if count > 0 { 1 + rest.len() - unsigned.len() + count } else { 0 }
    });
    (whole > 0 && (fraction > 0 || exponent > 0)).then_some(mantissa + exponent)
}

/// The integer at the start and its length.
pub(super) fn integer(text: &str) -> Result<(i128, usize)> {
    let prefixed = [("0b", 2), ("0o", 8), ("0x", 16)].into_iter().find_map(|(prefix, base)| {
        let start = text.get(..2).filter(|start| start.eq_ignore_ascii_case(prefix))?;
        let rest = text.get(start.len()..)?;
        // One `_` may stand before the digits, too.
        let skipped = usize::from(rest.starts_with('_'));
        let count = digits(rest.get(skipped..)?, base);
        (count > 0).then_some((base, 2, 2 + skipped + count))
    });
    let (base, from, length) = prefixed.unwrap_or_else(|| {
        let zeros = if text.starts_with('0') { zeros(text) } else { digits(text, 10) };
        (10, 0, zeros)
    });
    let plain = text.get(from..length).unwrap_or("").replace('_', "");
    let value = i128::from_str_radix(&plain, base);
    Ok((value.map_err(|_| Fault::new("integers of more than 38 digits are not supported"))?, length))
}

/// The length of zeros with single `_` between them: no other digit may follow.
fn zeros(text: &str) -> usize {
    let all = digits(text, 10);
    text.bytes().take(all).take_while(|b| matches!(b, b'0' | b'_')).count()
}

/// What a string stands for: the codec `unicode-escape` after `backslashreplace`.
pub(super) fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or(""));
        rest = rest.get(at + 1..).unwrap_or("");
        let Some(c) = rest.chars().next() else { return fail("\\ at end of string") };
        rest = rest.get(c.len_utf8()..).unwrap_or("");
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'x' => out.push(take_code(&mut rest, 2, "\\xXX")?),
            'u' => out.push(take_code(&mut rest, 4, "\\uXXXX")?),
            'U' => out.push(take_code(&mut rest, 8, "\\UXXXXXXXX")?),
            'N' => out.push(take_name(&mut rest)?),
            '0'..='7' => out.push(take_octal(&mut rest, c)?),
            // Jinja2 turns a character beyond ASCII into an escape first, and the backslash takes that one's.
            c if !c.is_ascii() => out.push_str(&backslashed(c)),
            c => out.extend(['\\', c]),
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn backslashed(c: char) -> String {
    match u32::from(c) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

fn take_code(rest: &mut &str, length: usize, form: &str) -> Result<char> {
    let digits = rest.get(..length).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let digits = digits.ok_or_else(|| Fault::new(format!("truncated {form} escape")))?;
    *rest = rest.get(length..).unwrap_or("");
    let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
    code.ok_or_else(|| Fault::new(format!("`\\…{digits}` is half of a character, which is not supported")))
}

fn take_octal(rest: &mut &str, first: char) -> Result<char> {
    let more = rest.bytes().take(2).take_while(|b| matches!(b, b'0'..=b'7')).count();
    let digits: String = std::iter::once(first).chain(rest.get(..more).unwrap_or("").chars()).collect();
    *rest = rest.get(more..).unwrap_or("");
    let code = u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32);
    code.ok_or_else(|| Fault::new("an octal escape that is no character"))
}

fn take_name(rest: &mut &str) -> Result<char> {
    let named = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let (name, after) = named.ok_or_else(|| Fault::new("malformed \\N character escape"))?;
    *rest = after;
    let shown: String = name.chars().take(60).collect();
    super::names::character(name).ok_or_else(|| {
        Fault::new(format!("the character name `{shown}` is not known here: write the character itself"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_to_their_end() {
        for (text, expected) in
            [("1.5e3x", Some(5)), ("1e5", Some(3)), ("1.", None), ("1_0.2_5", Some(7)), ("7e", None)]
        {
            assert_eq!(float_length(text), expected, "{text}");
        }
        for (text, expected) in
            [("0x_1F", (31, 5)), ("0b10", (2, 4)), ("0o17", (15, 4)), ("007", (0, 2)), ("1_000", (1000, 5))]
        {
            assert_eq!(integer(text).unwrap(), expected, "{text}");
        }
        assert!(integer(&"9".repeat(60)).is_err());
    }

    #[test]
    fn escapes_are_those_of_python() {
        for (text, expected) in [
            (r"\U0001F600\N{BULLET}\a\v\/", "😀•\u{7}\u{b}\\/"),
            (r"\x41\101\0", "AA\0"),
            ("a\\\nb", "ab"),
            (r"\é", r"\xe9"),
            (r"\d\ ", r"\d\ "),
        ] {
            assert_eq!(unescape(text).unwrap(), expected, "{text}");
        }
        for text in [r"\x4", r"\u12", r"\N{NO SUCH NAME}", r"\ud83d", "\\"] {
            assert!(unescape(text).is_err(), "{text}");
        }
    }
}
