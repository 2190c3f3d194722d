//! Calls as elements: a tag for the call with its name, within it a tag for each parameter around the value.
//!
//! `<function=f><parameter=a>1</parameter></function>`, `<invoke name="f"><parameter name="a">1</parameter></invoke>` and the like.
//! Nothing is escaped in these formats, so a value ends where its closing tag is followed by another tag of the format.

use super::super::Tools;
use super::super::io::{Io, Read, Stop};
use super::super::out::Sink;
use super::super::schema::Untyped;
use super::arguments::{self, Writer};
use super::value::{self, Kind, Place};
use super::{Left, json};

/// The tags of a format.
pub(in super::super) struct Tags {
    /// The beginning of a call's tag, and what ends the call.
    pub(in super::super) call: [&'static str; 2],
    /// Likewise of a parameter.
    pub(in super::super) parameter: [&'static str; 2],
    /// What ends the beginning of a tag.
    pub(in super::super) head_end: &'static [&'static str],
    /// The attributes that hold the names of a call and of a parameter; empty where nothing else stands in the tag.
    pub(in super::super) attributes: [&'static str; 2],
    /// How the type of a value is known.
    pub(in super::super) typing: Typing,
    /// Whether values stand on lines of their own.
    pub(in super::super) is_framed: bool,
    /// An element that holds all arguments as JSON.
    pub(in super::super) object: Option<[&'static str; 2]>,
}

/// How a format tells the type of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Typing {
    /// By the schema; else like this.
    Schema(Untyped),
    /// An attribute `string` is `true` or `false`.
    IsString,
    /// An attribute `type` has the type's name.
    Named,
}

/// Reads calls up to one of `ends`, or until something else follows.
pub(in super::super) async fn read(io: &Io, tags: &Tags, tools: &Tools, ends: &[&'static str]) -> Read<Left> {
    let before = io.calls();
    let marks: Vec<&str> = [tags.call[0]].into_iter().chain(ends.iter().copied()).collect();
    io.skip_space().await;
    if tags.call[0] == "<function=" && io.at(&["{", "["]).await.is_some() {
        return json::read(io).await;
    }
    loop {
        let mark = if io.calls() == before {
            Some(io.skip_to(&marks).await.ok_or(Stop::End)?)
        } else {
            io.skip_space().await;
            io.eat(&marks).await
        };
        match mark {
            Some(0) => {}
            Some(_) => return Ok(Left::Closed),
            None => return Ok(Left::Open),
        }
        if call(io, tags, tools, ends).await? == Left::Closed {
            return Ok(Left::Closed);
        }
    }
}

/// Reads one call after the beginning of its tag.
async fn call(io: &Io, tags: &Tags, tools: &Tools, ends: &[&'static str]) -> Read<Left> {
    let head = head(io, tags).await?;
    let name = attribute(&head, tags.attributes[0]).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Stop::Bad(format!("a call without a name: `{}{head}`", tags.call[0])))?;
    io.start(&name, None);
    let mut marks = vec![tags.parameter[0], tags.call[1], tags.call[0]];
    let object = tags.object.unwrap_or([tags.call[1]; 2]);
    marks.push(object[0]);
    marks.extend(ends);
    let mut arguments = Writer::default();
    loop {
        let Some(which) = io.skip_to(&marks).await else {
            if io.is_done() {
                arguments.end(io);
                return Ok(Left::Open);
            }
            return Err(Stop::End);
        };
        match which {
            0 => parameter(io, tags, tools, &name, &mut arguments, ends).await?,
            1 => {
                arguments.end(io);
                return Ok(Left::Open);
            }
            2 => {
                io.put_back(tags.call[0]);
                arguments.end(io);
                return Ok(Left::Open);
            }
            3 => {
                io.text_to(tags.head_end).await?;
                arguments::whole(io, &mut Sink::Arguments).await?;
                io.finish_call(true);
                io.skip_to(&[tags.call[1]]).await;
                return Ok(Left::Open);
            }
            _ => {
                arguments.end(io);
                return Ok(Left::Closed);
            }
        }
    }
}

/// Reads a parameter after the beginning of its tag.
async fn parameter(
    io: &Io,
    tags: &Tags,
    tools: &Tools,
    name: &str,
    arguments: &mut Writer,
    ends: &[&'static str],
) -> Read {
    const CDATA: &str = "<![CDATA[";
    let head = head(io, tags).await?;
    let key = attribute(&head, tags.attributes[1]).filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Stop::Bad(format!("a parameter without a name: `{}{head}`", tags.parameter[0])))?;
    arguments.key(io, &key);
    let [open, close] = tags.parameter;
    let mut follow = vec![open, close, tags.call[1]];
    follow.extend(ends);
    let kind = match tags.typing {
        Typing::Schema(untyped) => Kind::Schema(tools.parameter(name, &key), untyped),
        Typing::IsString => match attribute(&head, "string").as_deref() {
            Some("true") => Kind::Text,
            Some(_) => Kind::Json,
            None => Kind::Schema(tools.parameter(name, &key), Untyped::Guess),
        },
        Typing::Named => match attribute(&head, "type").as_deref() {
            Some("string") | None => Kind::Text,
            Some(_) => Kind::Json,
        },
    };
    if io.eat(&[CDATA]).await.is_some() {
        value::read(io, Place { close: "]]>", follow: &[close], is_framed: false }, kind).await?;
        io.skip_to(&[close]).await;
        return Ok(());
    }
    value::read(io, Place { close, follow: &follow, is_framed: tags.is_framed }, kind).await
}

/// The rest of a tag.
async fn head(io: &Io, tags: &Tags) -> Read<String> {
    let (head, which) = io.text_to(tags.head_end).await?;
    // The first is the tag's own end; the others begin what follows a tag without one.
    if which > 0 {
        io.put_back(tags.head_end[which]);
    }
    Ok(head)
}

/// The value of an attribute within a tag, or all of the tag where it has no name. Quotes around it are taken off.
fn attribute(head: &str, name: &str) -> Option<String> {
    let mut from = 0;
    let text = if name.is_empty() {
        head
    } else {
        loop {
            let place = from + head[from..].find(name)?;
            let after = head[place + name.len()..].trim_start();
            let is_word = !head[..place].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '-');
            match after.strip_prefix('=') {
                Some(value) if is_word => break value,
                _ => from = place + name.len(),
            }
        }
    };
    let text = text.trim();
    let value = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => text[1..].split(quote).next()?,
        _ if name.is_empty() => text,
        _ => text.split_whitespace().next()?,
    };
    Some(value.replace("&quot;", "\"").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_their_names() {
        for (head, name, value) in [
            (r#" name="a b" string="true""#, "name", Some("a b")),
            (r#" name="a b" string="true""#, "string", Some("true")),
            (" name = 'x'", "name", Some("x")),
            (" filename=\"no\" name=yes more", "name", Some("yes")),
            (r#" key="say &quot;&amp;&quot;" type="string""#, "key", Some("say \"&\"")),
            (" other", "name", None),
            ("name", "name", None),
            (" fn ", "", Some("fn")),
            ("\"fn\"", "", Some("fn")),
            ("", "", Some("")),
        ] {
            assert_eq!(attribute(head, name).as_deref(), value, "{head}");
        }
    }
}
