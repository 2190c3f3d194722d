//! The text around calls: answer and reasoning, separated by marks.

use super::Tools;
use super::buffer::PieceEnd;
use super::io::{Io, Read, Stop};
use super::layout::{Layout, Reader};
use super::out::Prose;
use super::read::{Left, braces, headed, json, pairs, python, tagged};
use crate::reasoning::Marks;

/// Where in a stretch of text one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// At the beginning of the answer, but for white space.
    Start,
    /// After a marker, but for white space.
    After,
    /// Within.
    Inside,
}

/// Text on its way out, less the white space beside markers. That comes back where more of the same goes on after them.
pub(super) struct Flow {
    pub(super) kind: Prose,
    edge: Edge,
    /// White space that was read and not written.
    held: String,
    /// For text and for reasoning: whether some was written, and the white space between it and what goes on.
    written: [Option<String>; 2],
    /// Whether there are no markers.
    is_plain: bool,
}

impl Flow {
    pub(super) fn new(io: &Io, in_reasoning: bool) -> Self {
        io.set_in_reasoning(in_reasoning);
        let (kind, edge) = match in_reasoning {
            true => (Prose::Reasoning, Edge::After),
            false => (Prose::Text, Edge::Start),
        };
        Self { kind, edge, held: String::new(), written: [None, None], is_plain: false }
    }

    /// Takes text.
    pub(super) fn push(&mut self, io: &Io, text: &str) {
        let body = if self.is_plain { text } else { text.trim_end() };
        if body.is_empty() {
            self.held += text;
            return;
        }
        let after = &text[body.len()..];
        let mut space = std::mem::replace(&mut self.held, after.to_owned());
        let mut body = body;
        if self.edge == Edge::After {
            let words = body.trim_start();
            space += &body[..body.len() - words.len()];
            body = words;
            match &self.written[self.kind as usize] {
                None => space.clear(),
                Some(gap) if !gap.is_empty() => space.clone_from(gap),
                Some(_) => {}
            }
        }
        io.prose(self.kind, &space);
        io.prose(self.kind, body);
        self.written[self.kind as usize] = Some(String::new());
        self.edge = Edge::Inside;
    }

    /// Takes a marker, after which text is of this kind.
    pub(super) fn mark(&mut self, io: &Io, kind: Prose) {
        let space = std::mem::take(&mut self.held);
        if let Some(gap) = self.written[self.kind as usize].as_mut().filter(|gap| gap.is_empty()) {
            *gap = space;
        }
        self.kind = kind;
        self.edge = Edge::After;
        io.set_in_reasoning(kind == Prose::Reasoning);
    }

    /// Takes the header of a message of this kind, which is a paragraph of its own.
    pub(super) fn message(&mut self, io: &Io, kind: Prose) {
        self.mark(io, kind);
        if let Some(gap) = self.written[kind as usize].as_mut().filter(|gap| gap.is_empty()) {
            gap.push_str("\n\n");
        }
    }

    /// Takes the end.
    pub(super) fn end(&mut self, io: &Io) {
        if self.edge != Edge::After {
            io.prose(self.kind, &self.held);
        }
        self.held.clear();
    }

    fn is_at_edge(&self) -> bool {
        self.edge != Edge::Inside
    }
}

/// What a marker in the text means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    ThinkStart,
    ThinkEnd,
    /// Calls begin.
    Calls,
    /// Likewise, and the marker is part of what their reader reads.
    CallsKept,
    CallsEnd,
    /// Markup without meaning here.
    Skipped,
}

fn marks(layout: Option<&Layout>, thinking: Option<Marks>, tools: &Tools) -> Vec<(String, Mark)> {
    let mut marks = Vec::new();
    if let Some(Marks { start, end }) = thinking {
        marks.extend([(start, Mark::ThinkStart), (end, Mark::ThinkEnd)]);
    }
    if let Some(layout) = layout {
        let lists = [
            (layout.starts, Mark::Calls),
            (layout.kept, Mark::CallsKept),
            (layout.ends, Mark::CallsEnd),
            (layout.skipped, Mark::Skipped),
        ];
        marks.extend(lists.iter().flat_map(|&(list, mark)| list.iter().map(move |text| ((*text).to_owned(), mark))));
        if let Some([before, after]) = layout.around_name {
            marks.extend(tools.names().map(|name| (format!("{before}{name}{after}"), Mark::CallsKept)));
        }
    }
    // What is empty would be found everywhere.
    marks.retain(|(text, _)| !text.is_empty());
    marks
}

/// Reads an answer to its end.
pub(super) async fn read(
    io: Io,
    layout: Option<&'static Layout>,
    thinking: Option<Marks>,
    in_reasoning: bool,
    tools: Tools,
) {
    let marks = marks(layout, thinking, &tools);
    let texts: Vec<&str> = marks.iter().map(|(text, _)| text.as_str()).collect();
    let mut flow = Flow::new(&io, in_reasoning);
    flow.is_plain = texts.is_empty();
    // Markers that may still come, since a call stood before them.
    let (mut owes_think_end, mut owes_calls_end) = (false, false);
    loop {
        if let Some(layout) = layout
            && flow.kind == Prose::Text
            && flow.is_at_edge()
        {
            bare(&io, layout, &tools, &mut flow).await;
        }
        let piece = io.until(&texts).await;
        flow.push(&io, &piece.text);
        let which = match piece.end {
            PieceEnd::More => continue,
            PieceEnd::End => {
                flow.end(&io);
                return;
            }
            PieceEnd::Mark(which) => which,
        };
        match (marks[which].1, flow.kind) {
            (Mark::ThinkStart, Prose::Text) => flow.mark(&io, Prose::Reasoning),
            (Mark::ThinkStart, Prose::Reasoning) if flow.is_at_edge() => flow.mark(&io, Prose::Reasoning),
            (Mark::ThinkEnd, Prose::Reasoning) | (Mark::Skipped, Prose::Text) => flow.mark(&io, Prose::Text),
            (Mark::ThinkEnd, Prose::Text) if flow.is_at_edge() || owes_think_end => {
                owes_think_end = false;
                flow.mark(&io, Prose::Text);
            }
            (Mark::CallsEnd, Prose::Text) if owes_calls_end => {
                owes_calls_end = false;
                flow.mark(&io, Prose::Text);
            }
            (mark @ (Mark::Calls | Mark::CallsKept), kind) => {
                let Some(layout) = layout else { continue };
                // A call ends the reasoning.
                owes_think_end |= kind == Prose::Reasoning;
                flow.mark(&io, Prose::Text);
                let is_kept = mark == Mark::CallsKept;
                owes_calls_end = calls(&io, layout, &tools, texts[which], is_kept).await == Left::Open && !is_kept;
            }
            _ => flow.push(&io, texts[which]),
        }
    }
}

/// Reads calls that begin with no marker, if such stand here; what does not turn out to be one is text.
async fn bare(io: &Io, layout: &Layout, tools: &Tools, flow: &mut Flow) {
    let Some(first) = layout.bare.filter(|_| !tools.is_empty()) else { return };
    flow.push(io, &io.word(char::is_whitespace).await);
    if io.peek().await != Ok(first) {
        return;
    }
    io.record("");
    let before = io.calls();
    let result = match first {
        '{' => json::read_bare(io, tools).await,
        _ => python::read_bare(io, tools).await,
    };
    if io.calls() > before {
        flow.mark(io, Prose::Text);
    }
    let is_open = io.is_open();
    if is_open {
        io.finish_call(false);
    }
    let rest = io.recorded();
    match result {
        Err(Stop::Bad(reason)) if is_open => io.invalid(rest, reason),
        Err(_) => {
            // What follows the bracket is read again, since there may be markers in it.
            let bracket = rest.find(first).map_or(0, |at| at + first.len_utf8());
            flow.push(io, &rest[..bracket]);
            io.put_back(&rest[bracket..]);
        }
        Ok(_) => {}
    }
}

/// Reads calls after their marker and the closing marker, if it follows.
pub(super) async fn calls(io: &Io, layout: &Layout, tools: &Tools, mark: &str, is_kept: bool) -> Left {
    match is_kept {
        true => {
            io.put_back(mark);
            io.record("");
        }
        false => io.record(mark),
    }
    let before = io.calls();
    let result = dispatch(io, layout, tools).await;
    let is_open = io.is_open();
    if is_open {
        io.finish_call(false);
    }
    match result {
        Ok(left) => {
            let text = io.recorded();
            if io.calls() == before {
                io.invalid(text, "there is no call between the markers");
            }
            if left == Left::Open { close(io, layout).await } else { left }
        }
        Err(Stop::Bad(reason)) => {
            if !layout.ends.is_empty() {
                io.skip_to(layout.ends).await;
            }
            io.invalid(io.recorded(), reason);
            Left::Closed
        }
        Err(Stop::End | Stop::Other) => {
            let text = io.recorded();
            if !is_open && !text.trim().is_empty() {
                io.invalid(text, "the text ends within a call");
            }
            Left::Closed
        }
    }
}

/// Reads the closing marker of a format that has one; brackets too many before it are passed over.
async fn close(io: &Io, layout: &Layout) -> Left {
    if layout.ends.is_empty() {
        return Left::Closed;
    }
    io.word(|c| c.is_whitespace() || matches!(c, '}' | ']')).await;
    if io.eat(layout.ends).await.is_some() { Left::Closed } else { Left::Open }
}

async fn dispatch(io: &Io, layout: &Layout, tools: &Tools) -> Read<Left> {
    match layout.reader {
        Reader::Json => json::read(io).await,
        Reader::Python => {
            io.skip_space().await;
            match io.peek().await? {
                '{' => json::read(io).await,
                _ => python::read(io).await,
            }
        }
        Reader::Braces(quote) => braces::read(io, quote).await,
        Reader::Tagged(tags) => tagged::read(io, tags, tools, layout.ends).await,
        Reader::Pairs(tags) => pairs::read(io, tags, tools).await,
        Reader::Kimi => headed::kimi(io).await,
        Reader::DeepSeek => headed::deepseek(io).await,
        Reader::Mistral => headed::mistral(io).await,
    }
}
