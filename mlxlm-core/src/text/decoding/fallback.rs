//! Byte tokens (`ByteFallback`): `<0xE6>` is one byte of a character that the vocabulary does not have.
//!
//! Bytes in a row are decoded together: if they are not whole characters, each of them is U+FFFD. So a row is kept until
//! the token after it; whatever was given out earlier might have been wrong.

use super::Part;

/// `<0xE6>` has six bytes.
const BYTE_TOKEN_LENGTH: usize = 6;

/// Bytes whose row has not ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Fallback {
    row: Vec<u8>,
    /// The token that has not ended, as long as it may be a byte.
    token: String,
    /// The token that has not ended is no byte.
    is_text: bool,
}

impl Fallback {
    pub(super) fn take(&mut self, part: &Part, out: &mut Vec<Part>) {
        self.token.push_str(&part.text);
        if !self.is_text && !part.ends && self.token.len() <= BYTE_TOKEN_LENGTH {
            return;
        }
        let text = std::mem::take(&mut self.token);
        match byte_of(&text).filter(|_| !self.is_text) {
            Some(byte) if part.ends => self.row.push(byte),
            _ => {
                self.end_row(out);
                out.push(part.with(text));
            }
        }
        self.is_text = !part.ends;
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Part>) {
        self.end_row(out);
    }

    fn end_row(&mut self, out: &mut Vec<Part>) {
        match String::from_utf8(std::mem::take(&mut self.row)) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => out.push(Part::token(text)),
            Err(error) => out.extend(error.as_bytes().iter().map(|_| Part::token("\u{fffd}"))),
        }
    }
}

/// The byte that a token such as `<0x0A>` stands for, read as the `tokenizers` crate does (`<0x+A>` too).
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::testing::check as check_step;
    use super::*;

    #[test]
    fn rows_of_bytes() {
        let check = |parts: &[&str], before: &[&str], after: &[&str]| {
            check_step(Step::Fallback(Fallback::default()), parts, before, after);
        };
        check(&["<0xE6>|", "<0x97>|", "<0xA5>|", "!|"], &["日|", "!|"], &[]);
        check(&["a|", "<0xE6>|", "<0x97>|"], &["a|"], &["\u{fffd}|", "\u{fffd}|"]);
        check(&["<0x41>|", "<0xFF>|"], &[], &["\u{fffd}|", "\u{fffd}|"]);
        check(&["<0x41>|", "<0x42>|"], &[], &["AB|"]);
        check(&["<0xZZ>|", "<0x4|", "<0x+A>|"], &["<0xZZ>|", "<0x4|"], &["\n|"]);
        check(&["<0x", "41>|", "<0x41>", "!", "<0x42>|"], &["A|", "<0x41>!", "<0x42>|"], &[]);
        check(&["<0x41", "<0x42>|"], &["<0x41<0x42>|"], &[]);
    }
}
