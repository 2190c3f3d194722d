//! The suffix automaton of a text that grows at its end (Blumer et al., "The smallest automaton recognizing the subwords of a
//! text", 1985).
//!
//! A state stands for parts of the text that end at the same places; the longest has `len` tokens. Its link leads to the
//! state of the longest end of these that ends elsewhere too. So the link of the state of the whole text stands for the longest
//! end of it that was there before.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Tokens beyond this are not learned: states are numbered in 32 bits, and there are up to two for each token.
const MAX_TOKENS: usize = 1 << 31;

/// How many states along the links learn of a new place: more than a text nests that is not one token again and again.
const MAX_LEARNED: usize = 32;

/// As many edges are searched one by one; more are hashed.
const MAX_SEARCHED: usize = 8;

/// The state of the empty text.
pub(super) const ROOT: u32 = 0;

/// The link of the root.
const NONE: u32 = u32::MAX;

/// An earlier place of some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// How many tokens there are.
    pub(super) len: usize,
    /// Where they end in the text: the number of tokens up to there.
    pub(super) end: usize,
}

/// The parts of a text.
#[derive(Debug, Clone)]
pub(super) struct Automaton {
    tokens: Vec<u32>,
    states: Vec<State>,
    /// The state of the whole text.
    last: u32,
}

#[derive(Debug, Clone)]
struct State {
    /// The longest part that it stands for.
    len: u32,
    link: u32,
    /// A place where these parts end, the last one that is known.
    end: u32,
    edges: Edges,
}

/// Where tokens lead from a state.
#[derive(Debug, Clone)]
enum Edges {
    None,
    One(u32, u32),
    Few(Vec<(u32, u32)>),
    #[expect(clippy::box_collection, reason = "few states have one, and all have room for it")]
    Many(Box<HashMap<u32, u32, BuildHasherDefault<Mixer>>>),
}

/// A hash of one token; whoever chooses the tokens gains nothing from collisions but a slower guess.
#[derive(Debug, Clone, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, token: u32) {
        let mixed = (self.0 ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }
}

impl Edges {
    fn get(&self, token: u32) -> Option<u32> {
        match self {
            Self::None => None,
            Self::One(own, target) => (*own == token).then_some(*target),
            Self::Few(edges) => edges.iter().find(|(own, _)| *own == token).map(|(_, target)| *target),
            Self::Many(edges) => edges.get(&token).copied(),
        }
    }

    /// Leads a token to a state, whether or not it led to another before.
    fn set(&mut self, token: u32, target: u32) {
        match self {
            Self::None => *self = Self::One(token, target),
            Self::One(own, old) if *own == token => *old = target,
            Self::One(own, old) => *self = Self::Few(vec![(*own, *old), (token, target)]),
            Self::Few(edges) => match edges.iter().position(|(own, _)| *own == token) {
                Some(at) => edges[at].1 = target,
                None if edges.len() < MAX_SEARCHED => edges.push((token, target)),
                None => {
                    let all = edges.iter().copied().chain([(token, target)]).collect();
                    *self = Self::Many(Box::new(all));
                }
            },
            Self::Many(edges) => drop(edges.insert(token, target)),
        }
    }

    /// What it takes beside its own size, about.
    fn bytes(&self) -> usize {
        match self {
            Self::None | Self::One(..) => 0,
            Self::Few(edges) => edges.capacity() * size_of::<(u32, u32)>(),
            Self::Many(edges) => edges.capacity() * (size_of::<(u32, u32)>() + 2) + size_of_val(&**edges),
        }
    }
}

impl Default for Automaton {
    fn default() -> Self {
        let root = State { len: 0, link: NONE, end: 0, edges: Edges::None };
        Self { tokens: Vec::new(), states: vec![root], last: ROOT }
    }
}

impl Automaton {
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Appends a token; gives the longest end of the text that was there before, and its most recent place but this one.
    pub(super) fn push(&mut self, token: u32) -> Option<Place> {
        if self.tokens.len() >= MAX_TOKENS - 1 {
            return None;
        }
        self.tokens.push(token);
        let end = self.tokens.len() as u32;
        let new = self.add(State { len: end, link: ROOT, end, edges: Edges::None });
        let link = self.link_new(token, new);
        self.state_mut(new).link = link;
        self.last = new;
        let earlier = self.place(link, self.state(link).len);
        self.learn(link, end);
        earlier
    }

    /// Leads `token` to the new state from all ends of the text that it never followed before; gives the state of the longest end
    /// that it did follow, with it.
    fn link_new(&mut self, token: u32, new: u32) -> u32 {
        let mut from = self.last;
        loop {
            if let Some(target) = self.state(from).edges.get(token) {
                return self.exactly(from, token, target);
            }
            self.state_mut(from).edges.set(token, new);
            match self.state(from).link {
                NONE => return ROOT,
                link => from = link,
            }
        }
    }

    /// The state of the longest part of `from` with `token` behind it. `target` is the one to which `token` leads; it may stand for
    /// longer parts as well, which have other places from now on.
    fn exactly(&mut self, from: u32, token: u32, target: u32) -> u32 {
        let len = self.state(from).len + 1;
        if self.state(target).len == len {
            return target;
        }
        let shorter = State { len, ..self.state(target).clone() };
        let shorter = self.add(shorter);
        self.state_mut(target).link = shorter;
        let mut from = from;
        while from != NONE && self.state(from).edges.get(token) == Some(target) {
            self.state_mut(from).edges.set(token, shorter);
            from = self.state(from).link;
        }
        shorter
    }

    /// Notes that the parts of a state, and their own ends, are at a new place.
    fn learn(&mut self, state: u32, end: u32) {
        let mut state = state;
        for _ in 0..MAX_LEARNED {
            if state == ROOT {
                return;
            }
            self.state_mut(state).end = end;
            state = self.state(state).link;
        }
    }

    /// The place of a part of `len` tokens that a state stands for; none for the empty part.
    pub(super) fn place(&self, state: u32, len: u32) -> Option<Place> {
        (state != ROOT).then(|| Place { len: len as usize, end: self.state(state).end as usize })
    }

    /// Goes from an end of `len` tokens of some other text, which `state` stands for, to the longest end with `token` behind it
    /// that is a part of this text.
    pub(super) fn follow(&self, state: u32, len: u32, token: u32) -> (u32, u32) {
        let (mut state, mut len) = self.settle(state, len);
        loop {
            if let Some(target) = self.state(state).edges.get(token) {
                return (target, len + 1);
            }
            match self.state(state).link {
                NONE => return (ROOT, 0),
                link => (state, len) = (link, self.state(link).len),
            }
        }
    }

    /// The state that stands for a part of `len` tokens now, if `state` stood for it before the text grew.
    pub(super) fn settle(&self, state: u32, len: u32) -> (u32, u32) {
        let mut state = state;
        loop {
            match self.state(state).link {
                NONE => return (state, len),
                link if self.state(link).len >= len => state = link,
                _ => return (state, len),
            }
        }
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let edges: usize = self.states.iter().map(|state| state.edges.bytes()).sum();
        self.tokens.capacity() * size_of::<u32>() + self.states.capacity() * size_of::<State>() + edges
    }

    fn add(&mut self, state: State) -> u32 {
        self.states.push(state);
        (self.states.len() - 1) as u32
    }

    fn state(&self, state: u32) -> &State {
        &self.states[state as usize]
    }

    fn state_mut(&mut self, state: u32) -> &mut State {
        &mut self.states[state as usize]
    }
}
