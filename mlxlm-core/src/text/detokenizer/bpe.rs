//! The detokenizer for byte-level BPE: every character of a token stands for one byte.
//!
//! Reference: `BPEStreamingDetokenizer` of `mlx_lm/tokenizer_utils.py` 0.32.2; the alphabet is that of GPT-2's `encoder.py`.
//! Its cost is linear. Unusual, and kept: byte 0 comes out as U+0100 (its own letter in the alphabet) unless it is held
//! back until the end; and a lone space waits for the token after it.

use super::Growing;

/// Letters of tokens whose bytes are not yet whole characters, and the text before them.
#[derive(Debug, Default)]
pub(super) struct Bpe {
    pub(super) out: Growing,
    pending: String,
}

impl Bpe {
    /// Takes a token, or an id without one.
    pub(super) fn add(&mut self, token: Option<&str>) {
        let token = token.unwrap_or("!");
        self.pending.push_str(token);
        let text = decode(&self.pending, |byte| byte != 0);
        if !text.ends_with('\u{fffd}') && token != "Ġ" {
            self.release(&text);
        }
    }

    pub(super) fn finalize(&mut self) {
        let text = decode(&self.pending, |_| true);
        self.release(&text);
    }

    /// Moves the pending letters, decoded as `text`, to the text, which does not begin with a space.
    fn release(&mut self, text: &str) {
        let trimmed = if self.out.text.is_empty() { text.strip_prefix(' ') } else { None };
        self.out.push(trimmed.unwrap_or(text));
        self.pending.clear();
    }
}

/// The text of letters of the alphabet; other characters, which only added tokens have, and bytes that are not `taken`
/// stand for themselves.
fn decode(letters: &str, taken: impl Fn(u8) -> bool) -> String {
    let mut bytes = Vec::with_capacity(letters.len());
    for letter in letters.chars() {
        match byte_of(letter).filter(|byte| taken(*byte)) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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

    fn check(tokens: &[&str], before_finalize: &str, after: &str) {
        let mut bpe = Bpe::default();
        for token in tokens {
            bpe.add(Some(token));
        }
        assert_eq!(bpe.out.text, before_finalize);
        bpe.finalize();
        assert_eq!(bpe.out.text, after);
        assert_eq!(bpe.out.chars, after.chars().count());
    }

    #[test]
    fn letters_are_bytes() {
        check(&["ĠHi", "Ġ", "Ġyou"], "Hi  you", "Hi  you");
        check(&["æĹ", "¥"], "日", "日");
        check(&["a", "æĹ"], "a", "a\u{fffd}");
        check(&["a", "Ġ"], "a", "a ");
        check(&["<｜end｜>"], "<｜end｜>", "<｜end｜>");
        check(&["aĀ"], "aĀ", "aĀ");
        check(&["a", "Ā", "æĹ"], "aĀ", "aĀ\u{fffd}");
    }

    #[test]
    fn an_id_without_a_token_is_an_exclamation_mark() {
        let mut bpe = Bpe::default();
        bpe.add(None);
        assert_eq!(bpe.out.text, "!");
    }
}
