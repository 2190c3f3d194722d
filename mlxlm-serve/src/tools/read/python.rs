//! Calls as Python writes them: `[get_weather(city="Oslo", days=2), now()]`.
//!
//! The brackets may be missing. Only arguments with names are calls' arguments.

use super::super::Tools;
use super::super::io::{Io, Read, Stop};
use super::super::literal::{Syntax, value};
use super::super::out::Sink;
use super::Left;
use super::arguments::Writer;

/// Reads a list of calls, or one.
pub(in super::super) async fn read(io: &Io) -> Read<Left> {
    io.skip_space().await;
    let is_list = io.eat(&["["]).await.is_some();
    calls(io, is_list, None).await
}

/// Reads a list of calls that no marker announced: it is one only if the first names a tool that there is.
pub(in super::super) async fn read_bare(io: &Io, tools: &Tools) -> Read<Left> {
    io.next().await?;
    calls(io, true, Some(tools)).await
}

async fn calls(io: &Io, is_list: bool, tools: Option<&Tools>) -> Read<Left> {
    let before = io.calls();
    loop {
        io.word(|c| c.is_whitespace() || c == ',' || c == ';').await;
        if is_list && io.eat(&["]"]).await.is_some() {
            // Without a marker, an empty list is text.
            let is_text = tools.is_some() && io.calls() == before;
            return if is_text { Err(Stop::Other) } else { Ok(Left::Open) };
        }
        let name = io.word(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-')).await;
        if io.calls() == before && tools.is_some_and(|tools| !tools.has(&name)) {
            return Err(Stop::Other);
        }
        if name.is_empty() && !is_list && io.calls() > before {
            return Ok(Left::Open);
        }
        io.skip_space().await;
        match io.peek().await? {
            '(' if !name.is_empty() => io.next().await?,
            _ if tools.is_some() && io.calls() == before => return Err(Stop::Other),
            c => return Err(Stop::Bad(format!("expected a call, found `{name}{c}`"))),
        };
        call(io, &name).await?;
        if !is_list {
            return Ok(Left::Open);
        }
    }
}

/// Reads the arguments of a call after the parenthesis. It starts with its first argument, so that no other use of parentheses
/// becomes a call.
async fn call(io: &Io, name: &str) -> Read {
    // Llama writes its built-in tools as methods.
    let name = name.strip_suffix(".call").unwrap_or(name);
    let mut arguments = Writer::default();
    let before = io.calls();
    loop {
        io.word(|c| c.is_whitespace() || c == ',').await;
        let key = io.word(|c| c.is_alphanumeric() || c == '_').await;
        io.skip_space().await;
        let c = io.next().await?;
        if key.is_empty() != (c == ')') || !matches!(c, ')' | '=') {
            return Err(Stop::Bad(format!("expected an argument with a name, found `{key}{c}`")));
        }
        if io.calls() == before {
            io.start(name, None);
        }
        if c == ')' {
            arguments.end(io);
            return Ok(());
        }
        arguments.key(io, &key);
        value(io, Syntax::Python, &mut Sink::Arguments).await?;
    }
}
