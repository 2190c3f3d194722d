//! The stream: text in, deltas out.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Waker};

use super::io::Io;
use super::layout::Layout;
use super::out::{Ids, Out};
use super::{Delta, Finish, Format, Tools, channels, prose};
use crate::reasoning::Marks;

/// What a stream has to know.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// The notation of calls; none where calls are not looked for. gpt-oss and Muse Spark write their reasoning in it too, so it
    /// is given for them without tools as well.
    pub format: Option<Format>,
    /// The marks around reasoning; none where there is none, or where the format tells it.
    pub marks: Option<Marks>,
    /// Whether the prompt ends within reasoning.
    pub in_reasoning: bool,
    /// The tools of the request: they tell the types of values that formats write as text, and the names of tools where a format
    /// has no marker.
    pub tools: Tools,
    /// What ids are made from: each call takes the next number. Clients keep ids, so it should be another one for each answer,
    /// also after a restart.
    pub first_id: u64,
}

/// Takes apart what one model writes in one answer.
///
/// ```
/// use mlxlm_serve::reasoning::Marks;
/// use mlxlm_serve::tools::{Delta, Finish, Stream, StreamOptions};
///
/// let marks = Some(Marks::new("<think>", "</think>"));
/// let mut stream = Stream::new(StreamOptions { marks, in_reasoning: true, ..StreamOptions::default() });
/// assert_eq!(stream.push("Well.\n</thi"), [Delta::Reasoning("Well.".into())]);
/// assert_eq!(stream.push("nk>\n\nYes"), [Delta::Text("Yes".into())]);
/// assert_eq!(stream.finish(Finish::Stop), []);
/// ```
pub struct Stream {
    io: Io,
    /// None when it came to its end.
    reader: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    end_marker: Option<String>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("in_reasoning", &self.in_reasoning()).finish_non_exhaustive()
    }
}

impl Stream {
    /// A stream at the beginning of an answer.
    pub fn new(options: StreamOptions) -> Self {
        let layout = options.format.map(Layout::of);
        let style = options.format.map(Format::id_style).unwrap_or_default();
        let io = Io::new(Out::new(Ids::new(options.first_id, style)));
        io.set_in_reasoning(options.in_reasoning);
        let channels = options.format.and_then(channels::Family::of);
        let end_marker = match channels {
            Some(family) => Some(family.end_of_reasoning().to_owned()),
            None => options.marks.as_ref().map(|marks| marks.end.clone()),
        };
        let reader: Pin<Box<dyn Future<Output = ()> + Send>> = match channels {
            Some(family) => Box::pin(channels::read(io.clone(), family, options.tools, options.in_reasoning)),
            None => Box::pin(prose::read(io.clone(), layout, options.marks, options.in_reasoning, options.tools)),
        };
        Self { io, reader: Some(reader), end_marker }
    }

    /// Takes the next piece of decoded text, of any length, and gives what is certain by now.
    pub fn push(&mut self, piece: &str) -> Vec<Delta> {
        self.io.feed(piece);
        self.read()
    }

    /// Takes the end of the text and gives all that was held back.
    pub fn finish(mut self, finish: Finish) -> Vec<Delta> {
        self.io.end(finish);
        self.read()
    }

    /// Whether the text so far ends within reasoning.
    pub fn in_reasoning(&self) -> bool {
        self.io.in_reasoning()
    }

    /// What the model has to write to end its reasoning, for a caller that makes it do so; none without reasoning.
    pub fn end_marker(&self) -> Option<String> {
        self.end_marker.clone()
    }

    fn read(&mut self) -> Vec<Delta> {
        if let Some(reader) = &mut self.reader
            && reader.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            self.reader = None;
        }
        self.io.drain()
    }
}
