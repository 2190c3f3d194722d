//! What others have written, on its way to the terminal: names, paths and error texts come from files, models and
//! servers, and may be long, of several lines, or hold sequences that a terminal obeys.
//!
//! All that is printed of them goes through here: [`line()`] for messages, [`name`] for a single name in a table or a bar.
//! The text of a model is not touched: it is what the user asked for.

/// The most that is shown of a name in a message, of which the start and the end tell most.
const NAME_CHARS: usize = 200;
/// How much of them is the end.
const NAME_END_CHARS: usize = 60;
/// The most that is shown of a message.
const LINE_CHARS: usize = 2000;

/// A message as one line: lines and the items of lists are joined, control characters are shown as escapes, and quoted
/// names, words and the whole are cut where they are too long.
pub(crate) fn line(text: &str) -> String {
    let mut cut = Cut::default();
    let mut separators = ("", "");
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        let item = part.strip_prefix("- ");
        cut.push(if item.is_some() { separators.1 } else { separators.0 });
        cut.push(item.unwrap_or(part));
        // What comes before a further line, and before a further item of a list.
        separators = (" ", if part.ends_with(':') { " " } else { "; " });
        if cut.is_full() {
            break;
        }
    }
    cut.finish()
}

/// A single name, shown with escapes for control characters, and cut in the middle where it is too long.
pub(crate) fn name(text: &str) -> String {
    let mut shown = String::new();
    push_name(text, &mut shown);
    shown
}

/// A line that is being made, of at most [`LINE_CHARS`] characters.
#[derive(Default)]
struct Cut {
    shown: String,
    chars: usize,
}

impl Cut {
    fn is_full(&self) -> bool {
        self.chars >= LINE_CHARS
    }

    /// Adds text: what stands between backticks, and each word outside of them, is cut as a name.
    fn push(&mut self, text: &str) {
        for (i, part) in text.split('`').enumerate() {
            if i > 0 {
                self.add("`");
            }
            if i % 2 == 1 {
                self.add(&name(part));
            } else {
                part.split_inclusive(' ').for_each(|word| self.add(&name(word)));
            }
            if self.is_full() {
                return;
            }
        }
    }

    fn add(&mut self, text: &str) {
        for c in text.chars().take(LINE_CHARS - self.chars) {
            self.shown.push(c);
            self.chars += 1;
        }
    }

    fn finish(mut self) -> String {
        if self.is_full() {
            self.shown.push('…');
        }
        self.shown
    }
}

fn push_name(text: &str, shown: &mut String) {
    if text.chars().nth(NAME_CHARS).is_none() {
        text.chars().for_each(|c| push_char(c, shown));
        return;
    }
    text.chars().take(NAME_CHARS - NAME_END_CHARS).for_each(|c| push_char(c, shown));
    shown.push('…');
    let end = text.char_indices().rev().nth(NAME_END_CHARS - 1).map_or(text, |(at, _)| &text[at..]);
    end.chars().for_each(|c| push_char(c, shown));
}

fn push_char(c: char, shown: &mut String) {
    if c.is_control() || is_invisible(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
}

/// What changes the direction of text or breaks lines without being seen (Unicode 16.0, `Bidi_Control` and the two
/// separators), or is not seen at all.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_one_line() {
        assert_eq!(line("no\n  such\n\nthing"), "no such thing");
        assert_eq!(line("two faults:\n  - one\n  - another"), "two faults: one; another");
        assert_eq!(line("a\r\nb"), "a b");
        assert_eq!(line(""), "");
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(line("`\x1b]0;title\x07` and \u{9b}2J"), r"`\u{1b}]0;title\u{7}` and \u{9b}2J");
        assert_eq!(name("a\tb\nc\u{202e}d\u{2066}"), r"a\tb\nc\u{202e}d\u{2066}");
        assert_eq!(name("ä 漢 🦀 `x`"), "ä 漢 🦀 `x`");
    }

    #[test]
    fn long_names_keep_their_ends() {
        let long = format!("start{}end", "m".repeat(1000));
        let shown = name(&long);
        assert_eq!(shown.chars().count(), 201);
        assert!(shown.starts_with("startmmm") && shown.ends_with("mmmend") && shown.contains("m…m"), "{shown}");
        assert_eq!(line(&format!("`{long}` is not known")), format!("`{shown}` is not known"));
        assert_eq!(line(&long), shown);
        assert_eq!(name(&"é".repeat(200)), "é".repeat(200));
    }

    #[test]
    fn long_messages_are_cut() {
        for text in ["`a`, ".repeat(1_000_000), "\n- x".repeat(1_000_000), "\x1b ".repeat(1_000_000)] {
            let shown = line(&text);
            assert_eq!(shown.chars().count(), 2001);
            assert!(shown.ends_with('…') && !shown.contains('\x1b'));
        }
    }
}
