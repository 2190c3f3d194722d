//! Calls as GLM writes them: the name, then an element for each key and one for its value.
//!
//! `get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value>`. Some write JSON, `name {"city": "Oslo"}` or `name city=Oslo`
//! instead.

use super::super::Tools;
use super::super::io::{Io, Read, Stop};
use super::super::out::Sink;
use super::super::schema::{Untyped, convert};
use super::arguments::{self, Writer};
use super::value::{self, Kind, Place};
use super::{Left, json};

/// The tags of a format.
pub(in super::super) struct Tags {
    pub(in super::super) key: [&'static str; 2],
    pub(in super::super) value: [&'static str; 2],
    /// What ends the call.
    pub(in super::super) end: &'static str,
}

/// Reads one call.
pub(in super::super) async fn read(io: &Io, tags: &Tags, tools: &Tools) -> Read<Left> {
    io.skip_space().await;
    if matches!(io.peek().await?, '{' | '[') {
        return json::read(io).await;
    }
    let name = io.word(|c| !c.is_whitespace() && !matches!(c, '<' | '{')).await;
    if name.is_empty() {
        return Err(Stop::Bad(format!("expected the name of a tool, found `{}`", io.peek().await?)));
    }
    io.skip_space().await;
    match io.eat(&[tags.key[0], tags.end]).await {
        Some(0) => {
            io.start(&name, None);
            pairs(io, tags, tools, &name).await
        }
        Some(_) => {
            io.start(name, None);
            Writer::default().end(io);
            Ok(Left::Closed)
        }
        None if io.peek().await? == '{' => {
            io.start(name, None);
            arguments::whole(io, &mut Sink::Arguments).await?;
            io.finish_call(true);
            Ok(Left::Open)
        }
        None => assignments(io, tags, tools, &name).await,
    }
}

/// Reads keys and values, beginning within the first key.
async fn pairs(io: &Io, tags: &Tags, tools: &Tools, name: &str) -> Read<Left> {
    let mut arguments = Writer::default();
    let follow = [tags.key[0], tags.value[1], tags.end];
    loop {
        let (key, which) = io.text_to(&[tags.key[1], tags.value[0], tags.end]).await?;
        let has_value = match which {
            0 => io.skip_to(&[tags.value[0], tags.end]).await.ok_or(Stop::End)? == 0,
            which => which == 1,
        };
        if !has_value {
            io.put_back(tags.end);
            return Err(Stop::Bad(format!("the key `{}` has no value", key.trim())));
        }
        arguments.key(io, key.trim());
        let kind = Kind::Schema(tools.parameter(name, key.trim()), Untyped::Guess);
        value::read(io, Place { close: tags.value[1], follow: &follow, is_framed: false }, kind).await?;
        match io.skip_to(&[tags.key[0], tags.end]).await {
            Some(0) => {}
            Some(_) => {
                arguments.end(io);
                return Ok(Left::Closed);
            }
            None if io.is_done() => {
                arguments.end(io);
                return Ok(Left::Open);
            }
            None => return Err(Stop::End),
        }
    }
}

/// Reads `key=value` words up to the end of the call.
async fn assignments(io: &Io, tags: &Tags, tools: &Tools, name: &str) -> Read<Left> {
    let (text, _) = io.text_to(&[tags.end]).await?;
    let words = words(&text);
    let pairs: Option<Vec<_>> = words.iter().map(|word| word.split_once('=').filter(|(k, _)| !k.is_empty())).collect();
    let Some(pairs) = pairs else {
        io.put_back(tags.end);
        return Err(Stop::Bad(format!("expected `{}` after the name `{name}`", tags.key[0])));
    };
    io.start(name, None);
    let mut arguments = Writer::default();
    for (key, value) in pairs {
        arguments.key(io, key);
        io.write(&mut Sink::Arguments, &convert(value, tools.parameter(name, key), Untyped::Guess));
    }
    arguments.end(io);
    Ok(Left::Closed)
}

/// The words of a text, as a shell takes them: quotes group and go away.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if matches!(c, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
