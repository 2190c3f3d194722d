//! The text that was written and not read yet, and looking for markers in it.
//!
//! Each attempt gives what it finds, or nothing where it needs more text.

/// White space that may follow a closing marker before the next marker decides whether it closes, in bytes.
const MAX_GAP: usize = 256;

/// Text up to a marker, or as much of it as there is.
pub(super) struct Piece {
    /// The text before the marker.
    pub(super) text: String,
    pub(super) end: PieceEnd,
}

/// What ends a [`Piece`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceEnd {
    /// Nothing: more of the same follows.
    More,
    /// A marker, which is consumed: its place in the list.
    Mark(usize),
    /// The end of all text.
    End,
}

/// What stands at a place of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    /// A marker: its place in the list.
    Mark(usize),
    /// None of them.
    Other,
}

/// Text that is still being written.
#[derive(Default)]
pub(super) struct Buffer {
    text: String,
    /// Where the text begins that was not read yet.
    at: usize,
    is_ended: bool,
    /// What was read since [`Buffer::record`].
    record: Option<String>,
}

impl Buffer {
    pub(super) fn feed(&mut self, piece: &str) {
        self.text.drain(..self.at);
        self.at = 0;
        self.text.push_str(piece);
    }

    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    /// Whether no more text comes.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Reads `bytes` of text.
    pub(super) fn take(&mut self, bytes: usize) -> &str {
        let from = self.at;
        self.at += bytes;
        let taken = &self.text[from..self.at];
        if let Some(record) = &mut self.record {
            record.push_str(taken);
        }
        taken
    }

    /// Puts back text that was just read.
    pub(super) fn put_back(&mut self, text: &str) {
        self.text.replace_range(..self.at, text);
        self.at = 0;
        if let Some(record) = &mut self.record {
            record.truncate(record.len().saturating_sub(text.len()));
        }
    }

    /// Keeps what is read from here on, after `before`.
    pub(super) fn record(&mut self, before: &str) {
        self.record = Some(before.to_owned());
    }

    /// What was kept; nothing is kept from here on.
    pub(super) fn recorded(&mut self) -> String {
        self.record.take().unwrap_or_default()
    }

    /// What there is of the characters of this kind; nothing where the next one is none, or at the end.
    pub(super) fn span(&mut self, keep: fn(char) -> bool) -> Option<String> {
        if self.rest().is_empty() && !self.is_ended {
            return None;
        }
        let bytes = self.rest().find(|c| !keep(c)).unwrap_or(self.rest().len());
        Some(self.take(bytes).to_owned())
    }

    /// Which of the markers stands here; it stays.
    pub(super) fn at(&self, marks: &[&str]) -> Option<Here> {
        let rest = self.rest();
        for (which, mark) in marks.iter().enumerate() {
            if rest.starts_with(mark) {
                return Some(Here::Mark(which));
            }
            if !self.is_ended && mark.starts_with(rest) {
                return None;
            }
        }
        Some(Here::Other)
    }

    /// Reads up to the first of the markers, or what there is before a place where one may begin.
    pub(super) fn until(&mut self, marks: &[&str]) -> Option<Piece> {
        let (text, found) = search(self.rest(), marks, self.is_ended);
        self.cut(text, found.map(|which| (which, marks[which].len())))
    }

    /// As [`Buffer::until`] for one marker, which counts only where one of `follow` comes after it and after white space, or
    /// where the text ends there.
    pub(super) fn until_closed(&mut self, close: &str, follow: &[&str]) -> Option<Piece> {
        let mut from = 0;
        loop {
            let (text, found) = search(&self.rest()[from..], &[close], self.is_ended);
            let text = from + text;
            if found.is_none() {
                return self.cut(text, None);
            }
            let after = &self.rest()[text + close.len()..];
            let next = after.trim_start();
            let closes = next.is_empty() && self.is_ended
                || after.len() - next.len() > MAX_GAP
                || follow.iter().any(|mark| next.starts_with(mark));
            if closes {
                return self.cut(text, Some((0, close.len())));
            }
            if !self.is_ended && follow.iter().any(|mark| mark.starts_with(next)) {
                return self.cut(text, None);
            }
            from = text + close.len();
        }
    }

    /// Reads `text` bytes and then the marker, if one was found.
    fn cut(&mut self, text: usize, found: Option<(usize, usize)>) -> Option<Piece> {
        let end = match found {
            Some((which, _)) => PieceEnd::Mark(which),
            None if self.is_ended => PieceEnd::End,
            None if text > 0 => PieceEnd::More,
            None => return None,
        };
        let text = self.take(text).to_owned();
        self.take(found.map_or(0, |(_, bytes)| bytes));
        Some(Piece { text, end })
    }
}

/// How many bytes lie before the first marker, and which it is; without one, how many lie before a place where one may begin.
fn search(text: &str, marks: &[&str], is_ended: bool) -> (usize, Option<usize>) {
    for (i, byte) in text.bytes().enumerate() {
        // The first byte of a marker is that of a character, so that no character is cut here.
        if !marks.iter().any(|mark| mark.as_bytes().first() == Some(&byte)) {
            continue;
        }
        let here = &text[i..];
        if let Some(which) = marks.iter().position(|mark| here.starts_with(mark)) {
            return (i, Some(which));
        }
        if !is_ended && marks.iter().any(|mark| mark.starts_with(here)) {
            return (i, None);
        }
    }
    (text.len(), None)
}
