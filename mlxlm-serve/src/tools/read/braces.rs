//! Calls as Gemma writes them: `call:get_weather{city:<|"|>Oslo<|"|>,days:2}`.

use super::super::io::{Io, Read, Stop};
use super::super::literal::{Syntax, value};
use super::super::out::Sink;
use super::{Left, is_name};

/// Reads calls until something else follows. Strings stand between two `quote`s.
pub(in super::super) async fn read(io: &Io, quote: &'static str) -> Read<Left> {
    let before = io.calls();
    loop {
        io.word(|c| c.is_whitespace() || c == ',').await;
        if io.eat(&["call:"]).await.is_none() {
            if io.calls() > before {
                return Ok(Left::Open);
            }
            return Err(Stop::Bad(format!("expected `call:`, found `{}`", io.peek().await?)));
        }
        let name = io.word(is_name).await;
        io.skip_space().await;
        match io.peek().await? {
            '{' if !name.is_empty() => {}
            c => return Err(Stop::Bad(format!("expected a name and `{{` after `call:`, found `{name}{c}`"))),
        }
        io.start(name, None);
        value(io, Syntax::Marked(quote), &mut Sink::Arguments).await?;
        io.finish_call(true);
    }
}
