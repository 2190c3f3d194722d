//! Tool calls and reasoning as a server's code meets them: text in pieces goes in, deltas come out.

mod answers;
mod cases;
mod detect;
mod generate;
mod laws;
mod render;
mod speed;

use mlxlm_serve::reasoning::Marks;
use mlxlm_serve::tools::{Delta, Finish, Format, Reply, Stream, StreamOptions, Tools};
use serde_json::Value;

/// A stream's setting, short to write in tables.
#[derive(Clone)]
struct Setting {
    options: StreamOptions,
    finish: Finish,
}

impl Setting {
    fn of(format: Format) -> Self {
        Self { options: StreamOptions { format: Some(format), ..StreamOptions::default() }, finish: Finish::Stop }
    }

    fn tools(mut self, tools: &Value) -> Self {
        self.options.tools = Tools::new(tools.as_array().expect("tools are a list"));
        self
    }

    fn marks(mut self, start: &str, end: &str) -> Self {
        self.options.marks = Some(Marks::new(start, end));
        self
    }

    fn thinking(self) -> Self {
        self.marks("<think>", "</think>")
    }

    fn in_reasoning(mut self) -> Self {
        self.options.in_reasoning = true;
        self
    }

    fn cut(mut self) -> Self {
        self.finish = Finish::Cut;
        self
    }

    /// What comes out of pieces; deltas of one push are joined as far as they may be.
    fn deltas<'p>(&self, pieces: impl IntoIterator<Item = &'p str>) -> Vec<Delta> {
        let mut stream = Stream::new(self.options.clone());
        let mut deltas: Vec<_> = pieces.into_iter().flat_map(|piece| stream.push(piece)).collect();
        deltas.extend(stream.finish(self.finish));
        check_order(&deltas);
        deltas
    }

    fn read<'p>(&self, pieces: impl IntoIterator<Item = &'p str>) -> Reply {
        let mut reply = Reply::default();
        reply.extend(self.deltas(pieces));
        reply
    }

    /// The reply to a whole text, which is the same for every cut into two and for single characters.
    #[track_caller]
    fn reply(&self, text: &str) -> Reply {
        let whole = self.read([text]);
        let characters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(self.read(characters.iter().map(String::as_str)), whole, "character by character: {text}");
        for (cut, _) in text.char_indices().skip(1) {
            assert_eq!(self.read([&text[..cut], &text[cut..]]), whole, "cut at {cut}: {text}");
        }
        whole
    }
}

/// Calls are numbered, start before they have arguments, end once, and do not overlap; nothing is empty.
#[track_caller]
fn check_order(deltas: &[Delta]) {
    let (mut calls, mut open) = (0, false);
    for delta in deltas {
        match delta {
            Delta::Text(text) | Delta::Reasoning(text) => assert!(!open && !text.is_empty()),
            Delta::CallStart { index, id, .. } => {
                assert!(!open && *index == calls && !id.is_empty());
                (calls, open) = (calls + 1, true);
            }
            Delta::CallArguments { index, delta } => assert!(open && index + 1 == calls && !delta.is_empty()),
            Delta::CallEnd { index, .. } => {
                assert!(open && index + 1 == calls);
                open = false;
            }
            Delta::Invalid(_) => assert!(!open),
        }
    }
    assert!(!open, "a call was left open: {deltas:?}");
}
