//! Replacing a string, and cutting characters at the ends of tokens (`Replace`, `Strip`).

use super::Part;

/// Replaces a string wherever it occurs in a token.
#[derive(Clone, Debug)]
pub(super) struct Replace {
    pattern: String,
    content: String,
    /// The end of the token so far, which may be the beginning of the pattern.
    kept: String,
}

impl Replace {
    /// `pattern` is not empty.
    pub(super) fn new(pattern: impl Into<String>, content: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), content: content.into(), kept: String::new() }
    }

    /// Whether it finds its pattern in each token alone, however tokens are put together.
    pub(super) fn is_of_one_byte(&self) -> bool {
        self.pattern.len() == 1
    }

    /// Whether it finds its pattern in each token that is whole characters, however tokens are put together.
    pub(super) fn is_of_one_character(&self) -> bool {
        self.pattern.chars().count() == 1
    }

    pub(super) fn take(&mut self, part: &Part, out: &mut Vec<Part>) {
        self.kept.push_str(&part.text);
        let mut text = String::with_capacity(self.kept.len());
        let mut rest = self.kept.as_str();
        while let Some((before, after)) = rest.split_once(&self.pattern) {
            text.push_str(before);
            text.push_str(&self.content);
            rest = after;
        }
        let kept = if part.ends { "" } else { begun(rest, &self.pattern) };
        text.push_str(&rest[..rest.len() - kept.len()]);
        self.kept = kept.to_owned();
        if part.ends || !text.is_empty() {
            out.push(part.with(text));
        }
    }
}

/// The longest end of `text` with which `pattern` begins, but not all of it.
fn begun<'t>(text: &'t str, pattern: &str) -> &'t str {
    let starts = pattern.char_indices().rev().map(|(at, _)| &pattern[..at]);
    let longest = starts.into_iter().find(|start| text.ends_with(start)).map_or(0, str::len);
    &text[text.len() - longest..]
}

/// Cuts a character off the start and the end of tokens, a number of times at most.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    content: char,
    start: usize,
    stop: usize,
    /// How many may still be cut off the start of the token.
    to_cut: usize,
    /// How many the token so far ends in, which may still be cut.
    kept: usize,
}

impl Strip {
    pub(super) fn new(content: char, start: usize, stop: usize) -> Self {
        Self { content, start, stop, to_cut: start, kept: 0 }
    }

    pub(super) fn take(&mut self, part: &Part, out: &mut Vec<Part>) {
        let mut text = String::with_capacity(part.text.len());
        for letter in part.text.chars() {
            if letter != self.content {
                text.extend(std::iter::repeat_n(self.content, std::mem::take(&mut self.kept)));
                text.push(letter);
                self.to_cut = 0;
            } else if self.to_cut > 0 {
                self.to_cut -= 1;
            } else if self.kept < self.stop {
                self.kept += 1;
            } else {
                text.push(letter);
            }
        }
        if part.ends {
            (self.to_cut, self.kept) = (self.start, 0);
        }
        if part.ends || !text.is_empty() {
            out.push(part.with(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::testing::check;
    use super::*;

    #[test]
    fn a_pattern_may_come_in_parts() {
        let replace = |pattern: &str, content: &str| Step::Replace(Replace::new(pattern, content));
        check(replace("▁", " "), &["▁a▁|", "▁|"], &[" a |", " |"], &[]);
        check(replace("<n>", "\n"), &["a<", "n", ">b<n", "<n>|"], &["a", "\nb", "<n\n|"], &[]);
        check(replace("aab", "x"), &["a", "a", "a", "b", "a|"], &["a", "x", "a|"], &[]);
        check(replace("aa", "b"), &["aaa", "a", "a|", "a|"], &["b", "b", "a|", "a|"], &[]);
        check(replace(" .", "."), &["a ", ".", " b|"], &["a", ".", " b|"], &[]);
    }

    #[test]
    fn characters_are_cut_off_both_ends() {
        let strip = |start, stop| Step::Strip(Strip::new(' ', start, stop));
        check(strip(1, 0), &["  a |", " b|"], &[" a |", "b|"], &[]);
        check(strip(1, 0), &["", " ", " a", " |"], &[" a", " |"], &[]);
        check(strip(2, 1), &[" ", "a ", " ", "  |"], &["a", " ", "  |"], &[]);
        check(strip(1, 1), &[" |", "   |"], &["|", " |"], &[]);
    }
}
