//! The same over many texts, for a server: answers resemble those that others got.
//!
//! Texts lie one behind the other, with a mark between them that no text has, in two halves. The newer half takes texts until
//! it is full; then it becomes the older one, and the texts of the half before are dropped.

use super::automaton::{Automaton, Place, ROOT};

/// Marks between texts count from here; no vocabulary has so many tokens.
const FIRST_MARK: u32 = 1 << 31;

/// How many tokens a text remembers to find its place in a new half.
const MAX_TAIL: usize = 64;

/// Texts of the past, the latest ones up to a number of tokens.
#[derive(Debug, Clone)]
pub struct SharedIndex {
    /// The older half, and the newer one.
    halves: [Half; 2],
    /// How many tokens a half has at most.
    capacity: usize,
}

#[derive(Debug, Clone, Default)]
struct Half {
    automaton: Automaton,
    texts: u32,
    /// Halves count up from 0, so that a cursor knows its own.
    number: u64,
}

/// Where the end of a growing text is found in a [`SharedIndex`].
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// The last tokens of the text.
    tail: Vec<u32>,
    /// What is found of them in each half.
    found: [Found; 2],
}

/// An end of a text in one half.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    number: u64,
    state: u32,
    len: u32,
}

impl SharedIndex {
    /// An index of at most `max_tokens` tokens, of which the older ones are dropped by halves. A token takes 60 to 120 bytes, as in
    /// a [`SuffixIndex`](super::SuffixIndex).
    pub fn new(max_tokens: usize) -> Self {
        let halves = [Half::default(), Half { number: 1, ..Half::default() }];
        Self { halves, capacity: (max_tokens / 2).min(FIRST_MARK as usize / 2) }
    }

    /// Adds a text, or as much of its end as a half may hold. Tokens from 2³¹ on end a text before them.
    pub fn add(&mut self, text: &[u32]) {
        // One token is the mark after the text.
        let text = &text[text.len() - text.len().min(self.capacity.saturating_sub(1))..];
        if text.is_empty() {
            return;
        }
        if self.halves[1].automaton.tokens().len() + text.len() + 1 > self.capacity {
            let number = self.halves[1].number + 1;
            self.halves.rotate_left(1);
            self.halves[1] = Half { number, ..Half::default() };
        }
        let half = &mut self.halves[1];
        for token in text.iter().copied().chain([FIRST_MARK + half.texts]) {
            half.automaton.push(token);
        }
        half.texts += 1;
    }

    /// The tokens that are kept.
    pub fn len(&self) -> usize {
        self.halves.iter().map(|half| half.automaton.tokens().len() - half.texts as usize).sum()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.halves.iter().map(|half| half.automaton.bytes()).sum()
    }

    /// Goes on by a token of a text that need not be in the index, in constant time on average.
    pub fn advance(&self, cursor: &mut Cursor, token: u32) {
        if cursor.tail.len() == 2 * MAX_TAIL {
            cursor.tail.drain(..MAX_TAIL);
        }
        cursor.tail.push(token);
        let known = cursor.found;
        for (found, half) in cursor.found.iter_mut().zip(&self.halves) {
            *found = match known.iter().find(|found| found.number == half.number) {
                Some(found) => half.follow(*found, token),
                // A half that the text did not see before.
                None => half.find(&cursor.tail),
            };
        }
    }

    /// Tokens that may come next, at most `most` and at most as many as match, and how many match. None if fewer than
    /// `min_match` do. What matches longest is taken, of the newer half if both are the same.
    pub fn propose(&self, cursor: &Cursor, most: usize, min_match: usize) -> (Vec<u32>, usize) {
        let known = |half: &Half| cursor.found.iter().find(|found| found.number == half.number).copied();
        let places = self.halves.iter().filter_map(|half| Some((half, half.place(known(half)?)?)));
        let Some((half, place)) = places.max_by_key(|(half, place)| (place.len, half.number)) else {
            return (Vec::new(), 0);
        };
        if place.len < min_match {
            return (Vec::new(), place.len);
        }
        let next = &half.automaton.tokens()[place.end..];
        let guess = next.iter().take(most.min(place.len)).take_while(|token| **token < FIRST_MARK).copied().collect();
        (guess, place.len)
    }
}

impl Half {
    fn follow(&self, found: Found, token: u32) -> Found {
        let (state, len) = match token {
            FIRST_MARK.. => (ROOT, 0),
            _ => self.automaton.follow(found.state, found.len, token),
        };
        Found { number: self.number, state, len }
    }

    fn find(&self, tail: &[u32]) -> Found {
        let nothing = Found { number: self.number, ..Found::default() };
        tail.iter().fold(nothing, |found, token| self.follow(found, *token))
    }

    fn place(&self, found: Found) -> Option<Place> {
        let (state, len) = self.automaton.settle(found.state, found.len);
        self.automaton.place(state, len)
    }
}
