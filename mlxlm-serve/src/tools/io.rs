//! What a reader reads from: text that is still being written.
//!
//! A reader is an `async` function that awaits text, so that each format reads like its grammar although the text comes in
//! pieces; [`Stream`](super::Stream) polls it whenever it has more. Nothing else is awaited and nothing wakes anybody.
//!
//! All that is looked at twice is what may be the beginning of a marker: some tens of bytes. What lies before is handed on at
//! once, so that reading takes time in proportion to the text, however it is cut.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::buffer::{Buffer, Here, Piece, PieceEnd};
use super::out::Out;
use super::{Delta, Finish};

/// Why a reader stops before its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is no more text.
    End,
    /// This is no call of the format; why.
    Bad(String),
    /// What looked like a call without a marker is plain text.
    Other,
}

/// The result of a reader.
pub(super) type Read<T = ()> = Result<T, Stop>;

/// A handle of the text and of what comes out; the reader has one and the [`Stream`](super::Stream) has one.
#[derive(Clone)]
pub(super) struct Io {
    shared: Arc<Mutex<Shared>>,
}

/// What both share.
pub(super) struct Shared {
    pub(super) buffer: Buffer,
    pub(super) out: Out,
    /// Whether the model came to its end by itself.
    is_done: bool,
}

/// For [`Stream`](super::Stream).
impl Io {
    pub(super) fn new(out: Out) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { buffer: Buffer::default(), out, is_done: false })) }
    }

    pub(super) fn feed(&self, piece: &str) {
        self.lock().buffer.feed(piece);
    }

    pub(super) fn end(&self, finish: Finish) {
        let shared = &mut *self.lock();
        shared.buffer.end();
        shared.is_done = finish == Finish::Stop;
    }

    /// What came out since the last call.
    pub(super) fn drain(&self) -> Vec<Delta> {
        self.lock().out.drain()
    }

    pub(super) fn in_reasoning(&self) -> bool {
        self.lock().out.in_reasoning
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For readers.
impl Io {
    /// Tries now and after each piece of text until there is a result.
    async fn wait<T>(&self, mut attempt: impl FnMut(&mut Buffer) -> Option<T>) -> T {
        poll_fn(|_| attempt(&mut self.lock().buffer).map_or(Poll::Pending, Poll::Ready)).await
    }

    /// The next character, which stays.
    pub(super) async fn peek(&self) -> Read<char> {
        self.wait(|buffer| match buffer.rest().chars().next() {
            Some(c) => Some(Ok(c)),
            None => buffer.is_ended().then_some(Err(Stop::End)),
        })
        .await
    }

    /// Reads the next character.
    pub(super) async fn next(&self) -> Read<char> {
        let c = self.peek().await?;
        self.lock().buffer.take(c.len_utf8());
        Ok(c)
    }

    /// Reads what there is of the characters of this kind; nothing where the next one is none, or at the end.
    pub(super) async fn span(&self, keep: fn(char) -> bool) -> String {
        self.wait(|buffer| buffer.span(keep)).await
    }

    /// Reads all characters of this kind that follow.
    pub(super) async fn word(&self, keep: fn(char) -> bool) -> String {
        let mut word = String::new();
        loop {
            let span = self.span(keep).await;
            if span.is_empty() {
                return word;
            }
            word += &span;
        }
    }

    pub(super) async fn skip_space(&self) {
        while !self.span(char::is_whitespace).await.is_empty() {}
    }

    /// Which of the markers stands here, if any; it stays. Waits while one may; of two that begin alike, the first of the list
    /// is waited for.
    pub(super) async fn at(&self, marks: &[&str]) -> Option<usize> {
        match self.wait(|buffer| buffer.at(marks)).await {
            Here::Mark(which) => Some(which),
            Here::Other => None,
        }
    }

    /// As [`Io::at`], and reads the marker.
    pub(super) async fn eat(&self, marks: &[&str]) -> Option<usize> {
        let which = self.at(marks).await?;
        self.lock().buffer.take(marks[which].len());
        Some(which)
    }

    /// Whether the text from here on is of some kind; `decide` knows, or knows that it needs more.
    pub(super) async fn ahead(&self, decide: fn(&str) -> Option<bool>) -> bool {
        self.wait(|buffer| decide(buffer.rest()).or(buffer.is_ended().then_some(false))).await
    }

    /// Reads up to the first of the markers, or what there is before a place where one may begin.
    pub(super) async fn until(&self, marks: &[&str]) -> Piece {
        self.wait(|buffer| buffer.until(marks)).await
    }

    /// As [`Io::until`] for one marker, which counts only where one of `follow` comes after it and after white space, or
    /// where the text ends there. So a value may hold its own closing marker, unless it goes on like the format does.
    pub(super) async fn until_closed(&self, close: &str, follow: &[&str]) -> Piece {
        self.wait(|buffer| buffer.until_closed(close, follow)).await
    }

    /// Reads past the first of the markers; none where the text ends before.
    pub(super) async fn skip_to(&self, marks: &[&str]) -> Option<usize> {
        loop {
            match self.until(marks).await.end {
                PieceEnd::More => {}
                PieceEnd::Mark(which) => return Some(which),
                PieceEnd::End => return None,
            }
        }
    }

    /// Reads up to the first of the markers and past it.
    pub(super) async fn text_to(&self, marks: &[&str]) -> Read<(String, usize)> {
        let mut text = String::new();
        loop {
            let piece = self.until(marks).await;
            text += &piece.text;
            match piece.end {
                PieceEnd::More => {}
                PieceEnd::Mark(which) => return Ok((text, which)),
                PieceEnd::End => return Err(Stop::End),
            }
        }
    }

    /// Puts back text that was just read.
    pub(super) fn put_back(&self, text: &str) {
        self.lock().buffer.put_back(text);
    }

    /// Keeps what is read from here on, after `before`, until a call starts.
    pub(super) fn record(&self, before: &str) {
        self.lock().buffer.record(before);
    }

    /// What was kept; nothing is kept from here on.
    pub(super) fn recorded(&self) -> String {
        self.lock().buffer.recorded()
    }

    /// Whether the model came to its end by itself.
    pub(super) fn is_done(&self) -> bool {
        self.lock().is_done
    }
}

/// Runs a reader to its end on text that is all there.
pub(super) fn all_at_once<T>(text: &str, read: impl AsyncFnOnce(&Io) -> T) -> Option<T> {
    let io = Io::new(Out::default());
    io.feed(text);
    io.end(Finish::Stop);
    let mut reading = Box::pin(read(&io));
    match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}
