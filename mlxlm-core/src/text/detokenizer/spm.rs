//! The detokenizer for sentencepiece vocabularies: `▁` is a space, `<0xE6>` a byte.
//!
//! Reference: `SPMStreamingDetokenizer` of `mlx_lm/tokenizer_utils.py` 0.32.2. Its cost is linear.

use super::Growing;

/// Bytes that are not yet whole characters, and the text before them.
#[derive(Debug)]
pub(super) struct Spm {
    pub(super) trim_space: bool,
    pub(super) out: Growing,
    pending: Vec<u8>,
}

impl Spm {
    pub(super) fn new(trim_space: bool) -> Self {
        Self { trim_space, out: Growing::default(), pending: Vec::new() }
    }

    /// Takes a token, or an id without one.
    pub(super) fn add(&mut self, token: Option<&str>) {
        let token = token.unwrap_or("\u{fffd}");
        match byte_of(token) {
            Some(byte) => self.pending.push(byte),
            None => self.pending.extend_from_slice(token.as_bytes()),
        }
        self.flush(false);
    }

    pub(super) fn finalize(&mut self) {
        self.flush(true);
    }

    /// Moves the pending bytes to the text, unless their last character may be incomplete.
    fn flush(&mut self, force: bool) {
        let text = String::from_utf8_lossy(&self.pending).replace('▁', " ");
        if !force && text.ends_with('\u{fffd}') {
            return;
        }
        let trimmed = if self.trim_space && self.out.text.is_empty() { text.strip_prefix(' ') } else { None };
        self.out.push(trimmed.unwrap_or(&text));
        self.pending.clear();
    }
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.get(..2)?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(trim_space: bool, tokens: &[&str], before_finalize: &str, after: &str) {
        let mut spm = Spm::new(trim_space);
        for token in tokens {
            spm.add(Some(token));
        }
        assert_eq!(spm.out.text, before_finalize);
        spm.finalize();
        assert_eq!(spm.out.text, after);
        assert_eq!(spm.out.chars, after.chars().count());
    }

    #[test]
    fn spaces_and_bytes() {
        check(true, &["▁Hello", "▁", "▁you"], "Hello  you", "Hello  you");
        check(false, &["▁Hello"], " Hello", " Hello");
        check(true, &["<0xE6>", "<0x97>", "<0xA5>", "!"], "日!", "日!");
        check(true, &["a", "<0xE6>", "<0x97>"], "a", "a\u{fffd}");
        // A text that is still empty loses the space of every flush, as in the reference.
        check(true, &["<0x20>", "▁a", "▁"], "a ", "a ");
        check(true, &["<0xZZ>", "<0x4"], "<0xZZ><0x4", "<0xZZ><0x4");
    }

    #[test]
    fn an_id_without_a_token_shows() {
        let mut spm = Spm::new(true);
        spm.add(None);
        spm.add(Some("x"));
        assert_eq!(spm.out.text, "\u{fffd}x");
    }
}
