//! Compiled grammars that were used lately.

use super::matcher::Matcher;

/// What a compiled grammar takes for each byte of its source, roughly.
const BYTES_A_SOURCE_BYTE: usize = 16;

/// Matchers before their first token, the one used last at the end.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: Vec<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    key: String,
    matcher: Matcher,
    bytes: usize,
}

impl Cache {
    /// A copy that shares nothing with the kept one.
    pub(super) fn get(&mut self, key: &str) -> Option<Matcher> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        self.entries[at..].rotate_left(1);
        self.entries.last().map(|entry| entry.matcher.apart())
    }

    /// Keeps a matcher, and drops those that were not used for longest.
    pub(super) fn put(&mut self, key: String, matcher: Matcher, entries: usize, bytes: usize) {
        let own = matcher.lexer_bytes() + BYTES_A_SOURCE_BYTE * key.len();
        if own > bytes || entries == 0 || self.entries.iter().any(|entry| entry.key == key) {
            return;
        }
        while self.entries.len() >= entries || self.bytes + own > bytes {
            self.bytes -= self.entries.remove(0).bytes;
        }
        self.bytes += own;
        self.entries.push(Entry { key, matcher, bytes: own });
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
