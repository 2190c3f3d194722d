//! Answers made of messages with headers: gpt-oss's harmony and Muse Spark.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>{…}<|call|>`
//!
//! The prompt ends with `<|start|>assistant`, so an answer begins within a header. A header tells what its message is: reasoning,
//! text, or the arguments of a call. What stands where a header should and is none is text.

use super::buffer::PieceEnd;
use super::io::{Io, Stop};
use super::layout::Layout;
use super::out::{Prose, Sink};
use super::prose::{Flow, calls};
use super::read::arguments;
use super::{Format, Tools};

/// What ends a header.
const MESSAGE: &str = "<|message|>";
/// What begins the header of the next message.
const START: &str = "<|start|>";
/// The most that a header may take, in bytes; what is longer is text.
const MAX_HEADER: usize = 1024;

/// Whose messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Harmony,
    Muse,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Prose(Prose),
    /// The arguments of a call.
    Call(String),
    /// Something for a tool that nobody offered.
    Foreign(String),
    /// Calls in the markup of Muse Spark.
    Calls,
}

impl Family {
    pub(super) fn of(format: Format) -> Option<Self> {
        match format {
            Format::Harmony => Some(Self::Harmony),
            Format::MuseSpark => Some(Self::Muse),
            _ => None,
        }
    }

    /// What ends a message of reasoning and begins the answer.
    pub(super) fn end_of_reasoning(self) -> &'static str {
        match self {
            Self::Harmony => "<|end|><|start|>assistant<|channel|>final<|message|>",
            Self::Muse => "<|eom|><|start|>assistant to=user<|message|>",
        }
    }

    /// What ends a message.
    fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Harmony => &["<|end|>", "<|return|>", "<|call|>"],
            Self::Muse => &["<|eom|>", "<|eot|>"],
        }
    }

    /// What a header begins with.
    fn openers(self) -> &'static [&'static str] {
        match self {
            Self::Harmony => &[START, "<|channel|>", "<|constrain|>", MESSAGE, "to="],
            Self::Muse => &[START, MESSAGE, "to=", "<atem:function_calls>"],
        }
    }

    /// What a message is, by its header.
    fn message(self, header: &str, tools: &Tools) -> Message {
        let recipient = header.rsplit_once("to=").map(|(_, to)| to.split(|c: char| c.is_whitespace() || c == '<'));
        let recipient = recipient.and_then(|mut words| words.next()).unwrap_or_default();
        match (self, recipient) {
            (Self::Muse, "self") => Message::Prose(Prose::Reasoning),
            (Self::Muse, "user" | "commentary" | "") => Message::Prose(Prose::Text),
            (Self::Muse, _) => Message::Calls,
            (Self::Harmony, "" | "assistant" | "user") => {
                let channel = header.rsplit_once("<|channel|>").map_or("", |(_, channel)| channel.trim_start());
                let is_reasoning = channel.starts_with("analysis");
                Message::Prose(if is_reasoning { Prose::Reasoning } else { Prose::Text })
            }
            (Self::Harmony, name) => match name.strip_prefix("functions.") {
                Some(name) => Message::Call(name.to_owned()),
                None if tools.has(name) => Message::Call(name.to_owned()),
                None => Message::Foreign(name.to_owned()),
            },
        }
    }
}

/// Reads an answer to its end.
pub(super) async fn read(io: Io, family: Family, tools: Tools, in_reasoning: bool) {
    let mut flow = Flow::new(&io, in_reasoning);
    if in_reasoning && prose(&io, family, &mut flow).await.is_none() {
        return;
    }
    loop {
        let Some(message) = header(&io, family, &tools, &mut flow).await else { return flow.end(&io) };
        let more = match message {
            Message::Prose(kind) => {
                flow.message(&io, kind);
                prose(&io, family, &mut flow).await
            }
            Message::Call(name) => {
                flow.mark(&io, Prose::Text);
                call(&io, family, name).await
            }
            Message::Foreign(name) => {
                flow.mark(&io, Prose::Text);
                foreign(&io, family, &format!("`{name}` is no tool of this request")).await
            }
            Message::Calls => {
                flow.mark(&io, Prose::Text);
                markup(&io, &tools, &mut flow).await
            }
        };
        if more.is_none() {
            return;
        }
    }
}

/// Reads a header. Text in its place goes out as text; none at the end of everything.
async fn header(io: &Io, family: Family, tools: &Tools, flow: &mut Flow) -> Option<Message> {
    loop {
        let space = io.word(char::is_whitespace).await;
        if io.eat(family.ends()).await.is_some() {
            continue;
        }
        io.peek().await.ok()?;
        if io.at(family.openers()).await.is_none() {
            flow.push(io, &space);
            prose(io, family, flow).await?;
            continue;
        }
        let mut text = space;
        let marks: Vec<&str> = [MESSAGE].into_iter().chain(family.ends().iter().copied()).collect();
        let marks = match family {
            Family::Muse => [&marks[..], Layout::of(Format::MuseSpark).starts].concat(),
            Family::Harmony => marks,
        };
        loop {
            let piece = io.until(&marks).await;
            text += &piece.text;
            match piece.end {
                PieceEnd::Mark(0) => return Some(family.message(&text, tools)),
                PieceEnd::Mark(which) if which > family.ends().len() => {
                    io.put_back(marks[which]);
                    return Some(Message::Calls);
                }
                PieceEnd::Mark(_) | PieceEnd::End => {
                    // Without a token of headers it was none.
                    if !text.contains("<|") {
                        flow.push(io, &text);
                    }
                    if piece.end == PieceEnd::End {
                        return None;
                    }
                    flow.mark(io, Prose::Text);
                    break;
                }
                PieceEnd::More if text.len() > MAX_HEADER => {
                    flow.push(io, &text);
                    prose(io, family, flow).await?;
                    break;
                }
                PieceEnd::More => {}
            }
        }
    }
}

/// Reads a message of text or reasoning; none at the end of everything.
async fn prose(io: &Io, family: Family, flow: &mut Flow) -> Option<()> {
    // A header without the end of the message before it ends the message as well.
    let mut marks = vec![START];
    if family == Family::Harmony {
        marks.push("<|channel|>");
    }
    let headers = marks.len();
    marks.extend(family.ends());
    loop {
        let piece = io.until(&marks).await;
        flow.push(io, &piece.text);
        match piece.end {
            PieceEnd::More => {}
            PieceEnd::Mark(which) => {
                if which < headers {
                    io.put_back(marks[which]);
                }
                flow.mark(io, Prose::Text);
                return Some(());
            }
            PieceEnd::End => {
                flow.end(io);
                return None;
            }
        }
    }
}

/// Reads the arguments of a call; none at the end of everything.
async fn call(io: &Io, family: Family, name: String) -> Option<()> {
    io.record("");
    io.skip_space().await;
    match io.peek().await {
        Ok('{') => {}
        Ok(c) => return foreign(io, family, &format!("expected the arguments of `{name}`, found `{c}`")).await,
        Err(_) => {
            io.start(name, None);
            io.finish_call(false);
            return None;
        }
    }
    io.start(name, None);
    match arguments::whole(io, &mut Sink::Arguments).await {
        Ok(()) => {
            io.finish_call(true);
            let more = io.skip_to(family.ends()).await;
            io.recorded();
            more.map(drop)
        }
        Err(Stop::Bad(reason)) => {
            io.finish_call(false);
            foreign(io, family, &reason).await
        }
        Err(_) => {
            io.finish_call(false);
            None
        }
    }
}

/// Reads a message that is no call and nothing else; none at the end of everything.
async fn foreign(io: &Io, family: Family, reason: &str) -> Option<()> {
    let mut text = io.recorded();
    loop {
        let piece = io.until(family.ends()).await;
        text += &piece.text;
        if piece.end != PieceEnd::More {
            io.invalid(text, reason);
            return matches!(piece.end, PieceEnd::Mark(_)).then_some(());
        }
    }
}

/// Reads a message with the markup of calls; none at the end of everything.
async fn markup(io: &Io, tools: &Tools, flow: &mut Flow) -> Option<()> {
    let layout = Layout::of(Format::MuseSpark);
    let marks = [layout.starts[0], "<|eom|>", "<|eot|>", START];
    loop {
        let piece = io.until(&marks).await;
        flow.push(io, &piece.text);
        match piece.end {
            PieceEnd::More => {}
            PieceEnd::Mark(0) => {
                flow.mark(io, Prose::Text);
                calls(io, layout, tools, marks[0], false).await;
            }
            PieceEnd::Mark(which) => {
                if marks[which] == START {
                    io.put_back(START);
                }
                flow.mark(io, Prose::Text);
                return Some(());
            }
            PieceEnd::End => {
                flow.end(io);
                return None;
            }
        }
    }
}
