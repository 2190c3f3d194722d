//! What comes out while a model's text is read: the deltas in their order, and the calls' places and ids.

use super::io::Io;
use super::literal::escape;
use super::{Delta, IdStyle, Invalid};

/// What readers have written and nobody took yet.
#[derive(Default)]
pub(super) struct Out {
    deltas: Vec<Delta>,
    /// How many calls started; the last of them is the one that is open.
    calls: usize,
    open: bool,
    ids: Ids,
    pub(super) in_reasoning: bool,
}

/// Where text between calls belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prose {
    Text,
    Reasoning,
}

/// Where a value is written to.
pub(super) enum Sink<'a> {
    /// The arguments of the open call.
    Arguments,
    /// A text.
    Buffer(&'a mut String),
    /// Nowhere.
    Nothing,
}

/// Where ids of calls come from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    next: u64,
    style: IdStyle,
}

impl Ids {
    pub(super) fn new(first: u64, style: IdStyle) -> Self {
        Self { next: first, style }
    }

    fn make(&mut self) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut n = self.next;
        self.next = self.next.wrapping_add(1);
        match self.style {
            IdStyle::Call => format!("call_{n:016x}"),
            IdStyle::Nine => {
                let mut id = [b'0'; 9];
                for place in id.iter_mut().rev() {
                    *place = DIGITS[(n % 62) as usize];
                    n /= 62;
                }
                id.iter().map(|&digit| char::from(digit)).collect()
            }
        }
    }
}

impl Out {
    pub(super) fn new(ids: Ids) -> Self {
        Self { ids, ..Self::default() }
    }

    pub(super) fn drain(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.deltas)
    }

    fn prose(&mut self, kind: Prose, text: &str) {
        match (kind, self.deltas.last_mut()) {
            _ if text.is_empty() => {}
            (Prose::Text, Some(Delta::Text(last))) | (Prose::Reasoning, Some(Delta::Reasoning(last))) => {
                last.push_str(text);
            }
            (Prose::Text, _) => self.deltas.push(Delta::Text(text.to_owned())),
            (Prose::Reasoning, _) => self.deltas.push(Delta::Reasoning(text.to_owned())),
        }
    }

    fn start(&mut self, name: String, id: Option<String>) {
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| self.ids.make());
        self.deltas.push(Delta::CallStart { index: self.calls, id, name });
        self.calls += 1;
        self.open = true;
    }

    fn arguments(&mut self, text: &str) {
        let here = self.calls.saturating_sub(1);
        match self.deltas.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::CallArguments { index, delta }) if *index == here => delta.push_str(text),
            _ => self.deltas.push(Delta::CallArguments { index: here, delta: text.to_owned() }),
        }
    }

    /// Ends the open call, if there is one.
    fn end(&mut self, is_whole: bool) {
        if std::mem::take(&mut self.open) {
            self.deltas.push(Delta::CallEnd { index: self.calls.saturating_sub(1), is_whole });
        }
    }
}

/// For readers.
impl Io {
    pub(super) fn prose(&self, kind: Prose, text: &str) {
        self.lock().out.prose(kind, text);
    }

    pub(super) fn set_in_reasoning(&self, in_reasoning: bool) {
        self.lock().out.in_reasoning = in_reasoning;
    }

    /// How many calls started.
    pub(super) fn calls(&self) -> usize {
        self.lock().out.calls
    }

    /// Starts a call; what was recorded before it was markup.
    pub(super) fn start(&self, name: impl Into<String>, id: Option<String>) {
        let shared = &mut *self.lock();
        shared.buffer.recorded();
        shared.out.start(name.into(), id);
    }

    /// Ends the open call, if there is one; what is read from here on is recorded.
    pub(super) fn finish_call(&self, is_whole: bool) {
        let shared = &mut *self.lock();
        shared.buffer.record("");
        shared.out.end(is_whole);
    }

    /// Whether a call is open.
    pub(super) fn is_open(&self) -> bool {
        self.lock().out.open
    }

    /// Text that should have been a call.
    pub(super) fn invalid(&self, text: String, reason: impl Into<String>) {
        self.lock().out.deltas.push(Delta::Invalid(Invalid { text, reason: reason.into() }));
    }

    pub(super) fn write(&self, sink: &mut Sink<'_>, text: &str) {
        match sink {
            Sink::Arguments => self.lock().out.arguments(text),
            Sink::Buffer(buffer) => buffer.push_str(text),
            Sink::Nothing => {}
        }
    }

    /// Writes text as it stands within a string of JSON.
    pub(super) fn write_escaped(&self, sink: &mut Sink<'_>, text: &str) {
        let mut escaped = String::with_capacity(text.len());
        escape(text, &mut escaped);
        self.write(sink, &escaped);
    }
}
