//! Strings that end a text. They are not part of it, so text that may be the beginning of one is held back.
//!
//! Unlike the reference, which looks for the tokens of a stop string, this looks at the text: a string is found however it was
//! tokenized, and wherever the pieces of the text are cut.

/// Looks for stop strings in a text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopStrings {
    strings: Vec<String>,
    /// The end of the text, which may be the beginning of a stop string.
    held: String,
}

/// What a piece of text brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// Text that is certain now.
    pub(crate) text: String,
    /// The stop string that ended the text, by its place in the list.
    pub(crate) stopped: Option<usize>,
}

impl StopStrings {
    /// Empty strings match nothing.
    pub(crate) fn new(strings: &[String]) -> Self {
        Self { strings: strings.to_vec(), held: String::new() }
    }

    /// Takes the next piece. After a stop string nothing more may come.
    pub(crate) fn push(&mut self, piece: &str) -> Released {
        if self.strings.is_empty() {
            return Released { text: piece.to_owned(), stopped: None };
        }
        self.held.push_str(piece);
        if let Some((start, index)) = self.first_match() {
            self.held.truncate(start);
            return Released { text: std::mem::take(&mut self.held), stopped: Some(index) };
        }
        let kept = self.held.split_off(self.held.len() - self.possible());
        Released { text: std::mem::replace(&mut self.held, kept), stopped: None }
    }

    /// The text is over without a stop string: what was held back.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the stop string begins that is complete first, and which it is; of those that end together, the longest.
    fn first_match(&self) -> Option<(usize, usize)> {
        let strings = self.strings.iter().enumerate().filter(|(_, string)| !string.is_empty());
        let found = strings
            .filter_map(|(index, string)| self.held.find(string).map(|start| (start + string.len(), start, index)));
        found.min().map(|(_, start, index)| (start, index))
    }

    /// The length of the longest end of the text that begins a stop string.
    fn possible(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let begins = |at: &usize| self.strings.iter().any(|string| string.starts_with(&self.held[*at..]));
        (from..self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(begins)
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text before the stop string, and which it was.
    fn cut(strings: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let strings: Vec<String> = strings.iter().map(|&string| string.to_owned()).collect();
        let mut stop = StopStrings::new(&strings);
        let mut text = String::new();
        for piece in pieces {
            let released = stop.push(piece);
            text += &released.text;
            if released.stopped.is_some() {
                return (text, released.stopped);
            }
        }
        (text + &stop.finish(), None)
    }

    #[test]
    fn a_string_is_found_across_pieces() {
        assert_eq!(cut(&["</s>"], &["hello <", "/", "s> more"]), ("hello ".into(), Some(0)));
        assert_eq!(cut(&["</s>"], &["a <", "/", "b"]), ("a </b".into(), None));
        assert_eq!(cut(&["</s>"], &["a </s"]), ("a </s".into(), None));
        assert_eq!(cut(&["", "é"], &["caf", "é!"]), ("caf".into(), Some(1)));
    }

    #[test]
    fn only_what_may_be_a_beginning_is_held_back() {
        let mut stop = StopStrings::new(&["abc".into()]);
        assert_eq!(stop.push("xab").text, "x");
        assert_eq!(stop.push("ab").text, "ab");
        assert_eq!(stop.push("é").text, "abé");
    }

    #[test]
    fn the_string_that_is_complete_first_ends_the_text() {
        assert_eq!(cut(&["xabc", "ab"], &["xabc"]), ("x".into(), Some(1)));
        assert_eq!(cut(&["b", "ab"], &["xab"]), ("x".into(), Some(1)));
    }

    proptest! {
        #[test]
        fn cutting_a_text_into_pieces_changes_nothing(
            strings in prop::collection::vec("[ab]{0,4}", 0..4), text in "[abé]{0,24}", size in 1_usize..6,
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<String> = letters.chunks(size).map(|piece| piece.concat()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (before, stopped) = cut(&strings, &pieces);
            prop_assert_eq!((before.clone(), stopped), cut(&strings, &[&text]));
            let found = strings.iter().any(|string| !string.is_empty() && text.contains(string));
            prop_assert_eq!(stopped.is_some(), found);
            prop_assert!(text.starts_with(&before) && (found || before == text));
        }
    }
}
