//! Values that stand as plain text between tags.

use super::super::buffer::PieceEnd;
use super::super::io::{Io, Read, Stop};
use super::super::out::Sink;
use super::super::schema::{Certainty, Parameter, Untyped, certainty, convert};

/// How a value stands in the text.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// What ends it.
    pub(super) close: &'a str,
    /// What may follow its end; where nothing of this does, the end is part of the value.
    pub(super) follow: &'a [&'a str],
    /// Whether a line break after the opening tag and one before the closing tag belong to the tags.
    pub(super) is_framed: bool,
}

/// How the type of a value is known.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// It is text.
    Text,
    /// It is JSON, or text if it is not.
    Json,
    /// By its schema, or by its looks.
    Schema(Option<Parameter>, Untyped),
}

/// Reads a value and its closing tag, and writes it into the arguments; text is written as it comes.
pub(super) async fn read(io: &Io, place: Place<'_>, kind: Kind) -> Read {
    let (parameter, untyped, certainty) = match kind {
        Kind::Text => (None, Untyped::Text, Certainty::Text),
        Kind::Json => (None, Untyped::Guess, Certainty::Open),
        Kind::Schema(parameter, untyped) => (parameter, untyped, certainty(parameter, untyped)),
    };
    let is_framed = place.is_framed && io.eat(&["\n"]).await.is_some();
    let mut text = Text { held: String::new(), is_open: false, is_framed, certainty };
    loop {
        let piece = io.until_closed(place.close, place.follow).await;
        text.held += &piece.text;
        match piece.end {
            PieceEnd::More => text.hand_on(io),
            PieceEnd::End => {
                text.hand_on(io);
                return Err(Stop::End);
            }
            PieceEnd::Mark(_) => break,
        }
    }
    text.end(io, |text| convert(text, parameter, untyped));
    Ok(())
}

/// What of a value was read and not written yet.
struct Text {
    held: String,
    /// Whether a string was begun.
    is_open: bool,
    is_framed: bool,
    certainty: Certainty,
}

impl Text {
    /// Writes what is certain to be part of a string.
    fn hand_on(&mut self, io: &Io) {
        let certain = if self.is_framed && self.held.ends_with('\n') { self.held.len() - 1 } else { self.held.len() };
        let may_be_null = || "null".get(..certain).is_some_and(|null| null.eq_ignore_ascii_case(&self.held[..certain]));
        match self.certainty {
            Certainty::Open => return,
            Certainty::TextOrNull if !self.is_open && may_be_null() => return,
            _ => {}
        }
        self.open(io);
        io.write_escaped(&mut Sink::Arguments, &self.held[..certain]);
        self.held.drain(..certain);
    }

    fn open(&mut self, io: &Io) {
        if !self.is_open {
            io.write(&mut Sink::Arguments, "\"");
            self.is_open = true;
        }
    }

    fn end(mut self, io: &Io, convert: impl Fn(&str) -> String) {
        if self.is_framed && self.held.ends_with('\n') {
            self.held.pop();
        }
        match self.certainty {
            Certainty::Open => io.write(&mut Sink::Arguments, &convert(&self.held)),
            Certainty::TextOrNull if !self.is_open && self.held.eq_ignore_ascii_case("null") => {
                io.write(&mut Sink::Arguments, "null");
            }
            _ => {
                self.open(io);
                io.write_escaped(&mut Sink::Arguments, &self.held);
                io.write(&mut Sink::Arguments, "\"");
            }
        }
    }
}
