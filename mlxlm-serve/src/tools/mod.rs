//! What a model writes, taken apart into text, reasoning and tool calls while it is written.
//!
//! Each family of models has its own notation for calls. [`Format::detect`] tells it from the chat template, and a [`Stream`]
//! reads the decoded text in whatever pieces it comes and gives [`Delta`]s:
//!
//! ```
//! use mlxlm_serve::tools::{Delta, Finish, Format, Reply, Stream, StreamOptions};
//!
//! let mut stream = Stream::new(StreamOptions { format: Some(Format::Json), ..StreamOptions::default() });
//! assert_eq!(stream.push("Let me see.\n<tool_"), [Delta::Text("Let me see.".into())]);
//! let mut reply = Reply::default();
//! reply.extend(stream.push("call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Os"));
//! assert_eq!(reply.calls[0].arguments, "{\"city\": \"Os");
//! reply.extend(stream.push("lo\"}}\n</tool_call>"));
//! reply.extend(stream.finish(Finish::Stop));
//! assert!(reply.calls[0].is_whole && reply.calls[0].name == "weather");
//! ```
//!
//! What holds for every format:
//!
//! - No markup comes out as text. Held back is only what may be the beginning of a marker, and white space: that beside markers is
//!   dropped, since templates write it there, and write it again when the conversation goes on.
//! - A call may stand within reasoning, which it ends.
//! - No text is lost. What should be a call and is none comes out as [`Delta::Invalid`], markup and all, with the reason.
//! - Arguments are an object in JSON, written as `json.dumps(…, ensure_ascii=False)` of Python does, except that numbers keep their
//!   digits. They come as they are written, save for values whose type shows only at their end.
//! - A call that the text breaks off is never made whole: [`Delta::CallEnd`] says so.
//! - Where a format has values as plain text, their types are those of the tool's schema.
//! - Reading takes time in proportion to the text, however it is cut.
//!
//! Formats are those of `mlx_lm/tool_parsers` 0.32.2 and of some models that it has no parser for. Where its parsers drop, cut or
//! guess, this one differs: it keeps the white space of string values, reads closing markers within strings as part of them, and
//! takes several functions in one block as several calls.

mod buffer;
mod channels;
mod format;
mod held;
mod io;
mod layout;
mod literal;
mod out;
mod prose;
mod read;
mod reply;
mod schema;
mod stream;
mod types;

pub use format::{Format, Hints, UnknownParser};
pub(crate) use held::Held;
pub use reply::{Call, Delta, Invalid, Reply};
pub use schema::Tools;
pub use stream::{Stream, StreamOptions};

/// Why there is no more text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its answer.
    Stop,
    /// The answer was cut, at a limit or by the client.
    Cut,
}

/// What ids of calls look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum IdStyle {
    /// `call_` and 16 hexadecimal digits.
    #[default]
    Call,
    /// Nine letters and digits: Mistral's templates refuse all else.
    Nine,
}
