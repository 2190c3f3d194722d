//! What a model says, taken apart while it is said: text, reasoning and calls of tools.

use crate::api::choices::Usage;
use crate::api::conversation::Rendered;
use crate::engine::{Card, Finish};
use crate::tools::{self, Delta, Format, Stream, StreamOptions, Tools};

/// Takes the text of one choice apart.
#[derive(Debug)]
pub(crate) struct Speech {
    /// None once the text is over.
    stream: Option<Stream>,
}

impl Speech {
    /// The prompt may end with the beginning of the thinking, or of the answer. Calls are looked for where the request has tools.
    pub(crate) fn new(card: &Card, prompt: &Rendered, tools: &Tools) -> Self {
        // These write their thinking in the same notation.
        let is_needed = |format: &Format| !tools.is_empty() || matches!(format, Format::Harmony | Format::MuseSpark);
        let mut stream = Stream::new(StreamOptions {
            format: card.format.filter(is_needed),
            marks: card.marks.clone(),
            in_reasoning: card.marks.as_ref().is_some_and(|marks| marks.is_opened_by(&prompt.text)),
            tools: tools.clone(),
            first_id: rand::random(),
        });
        // What the beginning of a call says comes with the rest of it.
        stream.push(prompt.begun);
        Self { stream: Some(stream) }
    }

    /// Takes the next piece of text.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Delta> {
        self.stream.as_mut().map_or_else(Vec::new, |stream| said(stream.push(text)))
    }

    /// The text is over: what was held back.
    pub(crate) fn finish(&mut self, finish: Finish) -> Vec<Delta> {
        let finish = if finish == Finish::Length { tools::Finish::Cut } else { tools::Finish::Stop };
        self.stream.take().map_or_else(Vec::new, |stream| said(stream.finish(finish)))
    }

    /// Takes the next piece of text, which may be the last, and counts a token of thinking.
    pub(crate) fn take(&mut self, text: &str, finish: Option<Finish>, usage: &mut Usage) -> Vec<Delta> {
        let mut deltas = self.push(text);
        match finish {
            Some(finish) => deltas.extend(self.finish(finish)),
            None => usage.reasoning_tokens += usize::from(self.in_reasoning()),
        }
        deltas
    }

    /// Whether the text so far ends within the thinking.
    fn in_reasoning(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::in_reasoning)
    }
}

/// Leaves out what follows the first whole call; whether there is one.
pub(crate) fn end_with_call(deltas: &mut Vec<Delta>) -> bool {
    let end = deltas.iter().position(|delta| matches!(delta, Delta::CallEnd { .. }));
    if let Some(end) = end {
        deltas.truncate(end + 1);
    }
    end.is_some()
}

/// What should have been a call and is none is text: the client sees what the model wrote.
fn said(deltas: Vec<Delta>) -> Vec<Delta> {
    let plain = |delta| if let Delta::Invalid(invalid) = delta { Delta::Text(invalid.text) } else { delta };
    deltas.into_iter().map(plain).collect()
}
