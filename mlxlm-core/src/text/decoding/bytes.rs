//! Tokens of a vocabulary of bytes (`ByteLevel`): every letter stands for one byte, in the alphabet of GPT-2's `encoder.py`.

use super::Part;

/// Bytes that are not yet whole characters. What comes out is one token, however long.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    /// The token that has not ended.
    token: String,
    pending: Vec<u8>,
}

impl Bytes {
    pub(super) fn take(&mut self, part: &Part, out: &mut Vec<Part>) {
        self.token.push_str(&part.text);
        if part.ends {
            let token = std::mem::take(&mut self.token);
            match bytes_of(&token).filter(|_| !part.added) {
                Some(bytes) => self.pending.extend(bytes),
                None => self.pending.extend_from_slice(token.as_bytes()),
            }
            let text = take_characters(&mut self.pending);
            if !text.is_empty() {
                out.push(Part::open(text));
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Part>) {
        out.push(Part::token(if self.pending.is_empty() { "" } else { "\u{fffd}" }));
        self.pending.clear();
    }
}

/// The bytes of a token; a token with other letters than those of the alphabet is its own text.
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// The byte that a letter of the alphabet stands for: printable Latin-1 for itself, and the 68 other bytes, in order,
/// from U+0100 on.
fn byte_of(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Takes the characters out of `pending`, U+FFFD for bytes that are none; bytes that may still become one stay.
fn take_characters(pending: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(pending.len());
    let mut taken = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let rest = chunk.invalid();
        let is_last = taken + rest.len() == pending.len();
        let may_go_on = is_last && std::str::from_utf8(rest).is_err_and(|error| error.error_len().is_none());
        if rest.is_empty() || may_go_on {
            continue;
        }
        text.push('\u{fffd}');
        taken += rest.len();
    }
    pending.drain(..taken);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Step;
    use super::super::testing::check as check_step;
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let bytes: Vec<u8> = (0..0x400).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(bytes.into_iter().collect::<BTreeSet<_>>().len(), 256);
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('ł'), byte_of('Ń')),
            (Some(32), Some(10), Some(160), Some(173))
        );
    }

    #[test]
    fn characters_come_whole() {
        let check = |parts: &[&str], before: &[&str], after: &str| {
            check_step(Step::Bytes(Bytes::default()), parts, before, &[after]);
        };
        check(&["ĠHi|", "Ġ|", "Ġyou|"], &[" Hi", " ", " you"], "|");
        check(&["æĹ|", "¥|"], &["日"], "|");
        check(&["a|", "æĹ|"], &["a"], "\u{fffd}|");
        check(&["a|", "æĹ|", "a|"], &["a", "\u{fffd}a"], "|");
        check(&["æĹæ|", "Ĺ¥|"], &["\u{fffd}", "日"], "|");
        check(&["¥¥|"], &["\u{fffd}\u{fffd}"], "|");
        check(&["<｜end｜>|", "Ā|"], &["<｜end｜>", "\0"], "|");
        check(&["æĹ", "¥|"], &["日"], "|");
    }

    #[test]
    fn an_added_token_is_its_own_text() {
        let mut out = Vec::new();
        let mut bytes = Bytes::default();
        for (text, added) in [("õ", true), ("õ", false), ("č", true)] {
            bytes.take(&Part { text: text.into(), ends: true, added }, &mut out);
        }
        assert_eq!(out.into_iter().map(|part| part.text).collect::<Vec<_>>(), ["õ", "\u{fffd}", "č"]);
    }
}
