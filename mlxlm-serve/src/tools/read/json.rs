//! Calls as JSON objects: `{"name": …, "arguments": {…}}`, one, several, or a list of them.
//!
//! `parameters` is another name of `arguments`, and `function` may be the name or an object that holds both. The call starts when
//! its name is known and the arguments begin. An `id` counts if it comes before.

use super::super::Tools;
use super::super::io::{Io, Read, Stop};
use super::super::literal::{Syntax, colon, key, value};
use super::super::out::Sink;
use super::Left;
use super::arguments;

/// Reads calls until something else follows.
pub(in super::super) async fn read(io: &Io) -> Read<Left> {
    let before = io.calls();
    io.skip_space().await;
    let is_list = io.eat(&["["]).await.is_some();
    loop {
        io.word(|c| c.is_whitespace() || matches!(c, ',' | ';')).await;
        match io.peek().await {
            Ok('{') => call(io, None).await?,
            Ok(']') if is_list => {
                io.next().await?;
                return Ok(Left::Open);
            }
            _ if io.calls() > before => return Ok(Left::Open),
            Ok(c) => return Err(Stop::Bad(format!("expected a call in JSON, found `{c}`"))),
            Err(stop) => return Err(stop),
        }
    }
}

/// Reads calls that no marker announced: an object is one only if it names a tool that there is.
pub(in super::super) async fn read_bare(io: &Io, tools: &Tools) -> Read<Left> {
    call(io, Some(tools)).await?;
    loop {
        io.word(|c| c.is_whitespace() || matches!(c, ',' | ';')).await;
        if io.peek().await != Ok('{') {
            return Ok(Left::Open);
        }
        call(io, Some(tools)).await?;
    }
}

/// What is known of a call.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    id: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    has_arguments: bool,
}

/// Reads one object. With `tools`, it is something else unless it names one of them.
async fn call(io: &Io, tools: Option<&Tools>) -> Read {
    io.next().await?;
    let mut draft = Draft::default();
    let mut depth = 1;
    loop {
        io.word(|c| c.is_whitespace() || c == ',').await;
        match io.peek().await {
            Ok('}') => {
                io.next().await?;
                depth -= 1;
                if depth == 0 {
                    return end(io, draft, tools);
                }
            }
            Ok(c) if c == '"' || c == '\'' || c.is_alphabetic() => {
                let key = key(io, Syntax::Json).await?;
                colon(io).await?;
                io.skip_space().await;
                depth += field(io, &key, &mut draft, tools).await?;
            }
            // The last braces are missing.
            Ok(_) | Err(Stop::End) if draft.has_arguments && draft.name.is_some() => return end(io, draft, tools),
            Ok(c) => return Err(Stop::Bad(format!("expected a key or `}}`, found `{c}`"))),
            Err(stop) => return Err(stop),
        }
    }
}

/// Reads the value of a field; 1 where it opened an object instead whose fields count as those of the call.
async fn field(io: &Io, key: &str, draft: &mut Draft, tools: Option<&Tools>) -> Read<usize> {
    match key {
        "function" if io.peek().await? == '{' => {
            io.next().await?;
            return Ok(1);
        }
        "name" | "tool_name" | "function" => {
            let name = text(io).await?;
            if tools.is_some_and(|tools| !tools.has(&name)) {
                return Err(Stop::Other);
            }
            draft.name = Some(name);
        }
        "arguments" | "parameters" if draft.has_arguments => value(io, Syntax::Json, &mut Sink::Nothing).await?,
        "arguments" | "parameters" => {
            draft.has_arguments = true;
            if let Some(name) = &draft.name {
                io.start(name, draft.id.take());
                arguments::whole(io, &mut Sink::Arguments).await?;
            } else {
                let mut early = String::new();
                arguments::whole(io, &mut Sink::Buffer(&mut early)).await?;
                draft.early = Some(early);
            }
        }
        "id" | "tool_call_id" | "call_id" if io.peek().await? == '"' => draft.id = Some(text(io).await?),
        _ if tools.is_some() && !matches!(key, "type" | "id" | "index") => return Err(Stop::Other),
        _ => value(io, Syntax::Json, &mut Sink::Nothing).await?,
    }
    Ok(0)
}

/// Reads a string.
async fn text(io: &Io) -> Read<String> {
    let mut json = String::new();
    value(io, Syntax::Json, &mut Sink::Buffer(&mut json)).await?;
    serde_json::from_str(&json).map_err(|_| Stop::Bad("the name of a call is no string".into()))
}

fn end(io: &Io, draft: Draft, tools: Option<&Tools>) -> Read {
    let Some(name) = draft.name else { return Err(Stop::Bad("a call without a name".into())) };
    if !draft.has_arguments && tools.is_some() {
        return Err(Stop::Other);
    }
    if !io.is_open() {
        io.start(name, draft.id);
        io.write(&mut Sink::Arguments, draft.early.as_deref().unwrap_or("{}"));
    }
    io.finish_call(true);
    Ok(())
}
