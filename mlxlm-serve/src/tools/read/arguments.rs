//! The arguments of a call: one JSON object, or its parameters one by one.

use super::super::io::{Io, Read, Stop};
use super::super::literal::{Syntax, parse, quoted, value};
use super::super::out::Sink;

/// Reads the arguments of a call as one value: an object; a string that holds one; or nothing, which is an empty object.
pub(in super::super) async fn whole(io: &Io, sink: &mut Sink<'_>) -> Read {
    io.skip_space().await;
    match io.peek().await? {
        '{' => value(io, Syntax::Json, sink).await,
        '"' | '\'' => {
            let mut json = String::new();
            value(io, Syntax::Json, &mut Sink::Buffer(&mut json)).await?;
            let text: String = serde_json::from_str(&json).map_err(|error| Stop::Bad(error.to_string()))?;
            let object = match text.trim() {
                "" => Some("{}".to_owned()),
                text => parse(text).filter(|json| json.starts_with('{')),
            };
            io.write(sink, &object.ok_or_else(|| Stop::Bad("the arguments are a string without an object".into()))?);
            Ok(())
        }
        'n' | 'N' => {
            let mut json = String::new();
            value(io, Syntax::Json, &mut Sink::Buffer(&mut json)).await?;
            io.write(sink, "{}");
            Ok(())
        }
        c => Err(Stop::Bad(format!("expected an object of arguments, found `{c}`"))),
    }
}

/// Writes the arguments of the open call one by one.
#[derive(Default)]
pub(super) struct Writer {
    count: usize,
}

impl Writer {
    /// Begins an argument, whose value comes next.
    pub(super) fn key(&mut self, io: &Io, key: &str) {
        io.write(&mut Sink::Arguments, if self.count == 0 { "{" } else { ", " });
        io.write(&mut Sink::Arguments, &quoted(key));
        io.write(&mut Sink::Arguments, ": ");
        self.count += 1;
    }

    /// Ends the arguments and the call.
    pub(super) fn end(self, io: &Io) {
        io.write(&mut Sink::Arguments, if self.count == 0 { "{}" } else { "}" });
        io.finish_call(true);
    }
}
