//! Calls with a head of special tokens before JSON arguments: Kimi K2, DeepSeek V3, Mistral.

use super::super::io::{Io, Read, Stop};
use super::super::out::Sink;
use super::arguments;
use super::{Left, is_name, json};

/// Kimi K2's markers: around all calls, around each, and before the arguments.
pub(in super::super) const KIMI: [&str; 5] = [
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
];

/// DeepSeek's markers: around all calls, around each, and after the head.
pub(in super::super) const DEEPSEEK: [&str; 5] = [
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
];

/// Reads `functions.NAME:N<|tool_call_argument_begin|>{…}` for each call; the head is the call's id.
pub(in super::super) async fn kimi(io: &Io) -> Read<Left> {
    let [.., end, separator] = KIMI;
    let before = io.calls();
    loop {
        let id = match head(io, KIMI, before).await? {
            Head::Call(id) => id,
            Head::None(left) => return Ok(left),
        };
        let id = id.trim();
        let name = id.strip_prefix("functions.").unwrap_or(id);
        let (name, id) = match name.rsplit_once(':') {
            Some((name, n)) if !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()) => (name, Some(id.to_owned())),
            _ => (name, None),
        };
        if name.is_empty() {
            return Err(Stop::Bad(format!("a call without a name before `{separator}`")));
        }
        io.start(name, id);
        arguments::whole(io, &mut Sink::Arguments).await?;
        io.finish_call(true);
        io.skip_space().await;
        // It is left out at times.
        io.eat(&[end]).await;
    }
}

/// Reads `NAME<｜tool▁sep｜>{…}` for each call, or, before V3.1, the kind `function`, the separator, the name, and the arguments in
/// a block of code.
pub(in super::super) async fn deepseek(io: &Io) -> Read<Left> {
    let [.., end, _] = DEEPSEEK;
    let before = io.calls();
    loop {
        let kind = match head(io, DEEPSEEK, before).await? {
            Head::Call(kind) => kind,
            Head::None(left) => return Ok(left),
        };
        io.skip_space().await;
        let name = if kind.trim() == "function" && io.peek().await? != '{' {
            let name = io.word(|c| c != '\n' && c != '`').await;
            io.skip_space().await;
            if io.eat(&["```json", "```"]).await.is_none() && io.peek().await? != '{' {
                return Err(Stop::Bad("expected a block of JSON after the name of a call".into()));
            }
            name
        } else {
            kind
        };
        if name.trim().is_empty() {
            return Err(Stop::Bad("a call without a name".into()));
        }
        io.start(name.trim(), None);
        arguments::whole(io, &mut Sink::Arguments).await?;
        io.finish_call(true);
        io.skip_space().await;
        io.eat(&["```"]).await;
        io.skip_space().await;
        io.eat(&[end]).await;
    }
}

/// What stands where a call may begin.
enum Head {
    /// The text between the marker that begins a call and the one before its arguments.
    Call(String),
    /// No further call.
    None(Left),
}

/// Reads what comes before the arguments of a call. `before` calls started before this section.
async fn head(io: &Io, marks: [&str; 5], before: usize) -> Read<Head> {
    let [_, section_end, begin, end, separator] = marks;
    io.skip_space().await;
    match io.eat(&[section_end, begin]).await {
        Some(0) => return Ok(Head::None(Left::Closed)),
        Some(_) => {}
        None if io.calls() > before => return Ok(Head::None(Left::Open)),
        None => return Err(Stop::Bad(format!("expected `{begin}`, found `{}`", io.peek().await?))),
    }
    let marks = [separator, end, begin, section_end];
    let (head, which) = io.text_to(&marks).await?;
    if which == 0 {
        return Ok(Head::Call(head));
    }
    io.put_back(marks[which]);
    Err(Stop::Bad(format!("a call without `{separator}`")))
}

/// Reads a list in JSON, or `NAME[ARGS]{…}`, also `NAME[CALL_ID]ID[ARGS]{…}`, which may repeat. Nothing marks the end.
pub(in super::super) async fn mistral(io: &Io) -> Read<Left> {
    io.skip_space().await;
    if matches!(io.peek().await?, '[' | '{') {
        return json::read(io).await;
    }
    loop {
        let name = io.word(is_name).await;
        io.skip_space().await;
        let mark = io.eat(&["[ARGS]", "[CALL_ID]"]).await;
        let (Some(mark), false) = (mark, name.is_empty()) else {
            return Err(Stop::Bad(format!("expected a name and `[ARGS]` after `[TOOL_CALLS]`, found `{name}`")));
        };
        let mut id = None;
        if mark == 1 {
            id = Some(io.word(char::is_alphanumeric).await);
            if io.eat(&["[ARGS]"]).await.is_none() {
                return Err(Stop::Bad("expected `[ARGS]` after the id of a call".into()));
            }
        }
        io.start(name, id);
        arguments::whole(io, &mut Sink::Arguments).await?;
        io.finish_call(true);
        if !io.ahead(another).await {
            return Ok(Left::Open);
        }
        io.skip_space().await;
    }
}

/// Whether a text begins with a name and `[ARGS]` or `[CALL_ID]`; none where it is too short to tell.
fn another(text: &str) -> Option<bool> {
    const MAX_BYTES: usize = 256;
    let name = text.trim_start();
    let after = name.trim_start_matches(is_name);
    let mark = after.trim_start();
    let marks = ["[ARGS]", "[CALL_ID]"];
    let has_name = after.len() < name.len();
    if has_name && marks.iter().any(|m| mark.starts_with(m)) {
        return Some(true);
    }
    let may = name.is_empty() || has_name && marks.iter().any(|m| m.starts_with(mark));
    (!may || text.len() > MAX_BYTES).then_some(false)
}
