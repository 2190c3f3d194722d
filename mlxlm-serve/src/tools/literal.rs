//! Values as models write them, made into JSON while they are read.
//!
//! Models write JSON, Python's literals, or the notation of Gemma, and mix them. One reader takes them all and writes JSON:
//! strings in either quotes or between markers, raw line breaks in them, `True` and `None`, tuples, trailing commas,
//! keys without quotes. Numbers keep their digits. White space between tokens becomes that of Python's `json.dumps`.

mod scalar;
mod string;

use super::io::{Io, Read, Stop, all_at_once};
use super::out::Sink;
pub(super) use scalar::number;
pub(super) use string::{escape, quoted};

/// How deep values may be nested, as in serde_json.
const MAX_DEPTH: usize = 127;

/// What is taken for a value besides JSON and Python's literals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// Nothing else.
    Json,
    /// Words that are no literal are strings; a quote within a string does not end it unless what follows may follow.
    Python,
    /// Words are strings, keys have no quotes, and strings stand between two of these markers.
    Marked(&'static str),
}

impl Syntax {
    /// Whether a word that is no literal is a string.
    fn has_words(self) -> bool {
        self != Self::Json
    }
}

/// A list, tuple or object that is being read.
struct Frame {
    close: char,
    is_object: bool,
    is_empty: bool,
}

/// Reads one value.
pub(super) async fn value(io: &Io, syntax: Syntax, sink: &mut Sink<'_>) -> Read {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        io.skip_space().await;
        let first = io.peek().await?;
        if let Some((close, is_object)) = opened(first) {
            io.next().await?;
            if frames.len() == MAX_DEPTH {
                return Err(Stop::Bad(format!("values are nested deeper than {MAX_DEPTH}")));
            }
            frames.push(Frame { close, is_object, is_empty: true });
            io.write(sink, if is_object { "{" } else { "[" });
        } else if !string::read(io, syntax, sink).await? {
            scalar::read(io, syntax, sink).await?;
        }
        // On to the place of the next value; what is complete is closed.
        loop {
            let Some(frame) = frames.last_mut() else { return Ok(()) };
            if step(io, syntax, frame, sink).await? {
                break;
            }
            frames.pop();
        }
    }
}

/// Reads a whole text as one value of JSON or Python, which it has to be exactly.
pub(super) fn parse(text: &str) -> Option<String> {
    let mut json = String::new();
    let read = all_at_once(text, async |io| {
        value(io, Syntax::Json, &mut Sink::Buffer(&mut json)).await?;
        io.skip_space().await;
        match io.peek().await {
            Err(Stop::End) => Ok(()),
            _ => Err(Stop::Bad("text follows the value".into())),
        }
    });
    matches!(read, Some(Ok(()))).then_some(json)
}

fn opened(c: char) -> Option<(char, bool)> {
    match c {
        '{' => Some(('}', true)),
        '[' => Some((']', false)),
        '(' => Some((')', false)),
        _ => None,
    }
}

/// Goes on to the place of the next value in a frame and says so, or reads its end.
async fn step(io: &Io, syntax: Syntax, frame: &mut Frame, sink: &mut Sink<'_>) -> Read<bool> {
    io.skip_space().await;
    let mut next = io.peek().await?;
    if !frame.is_empty && next != frame.close {
        if next != ',' {
            return Err(Stop::Bad(format!("expected `,` or `{}`, found `{next}`", frame.close)));
        }
        io.next().await?;
        io.skip_space().await;
        next = io.peek().await?;
    }
    if next == frame.close {
        io.next().await?;
        io.write(sink, if frame.is_object { "}" } else { "]" });
        return Ok(false);
    }
    if !frame.is_empty {
        io.write(sink, ", ");
    }
    frame.is_empty = false;
    if frame.is_object {
        let key = key(io, syntax).await?;
        colon(io).await?;
        io.write(sink, &quoted(&key));
        io.write(sink, ": ");
    }
    Ok(true)
}

/// Reads the key of an object.
pub(super) async fn key(io: &Io, syntax: Syntax) -> Read<String> {
    let mut json = String::new();
    if string::read(io, syntax, &mut Sink::Buffer(&mut json)).await? {
        return serde_json::from_str(&json).map_err(|error| Stop::Bad(error.to_string()));
    }
    let word = match syntax {
        Syntax::Marked(_) => io.word(|c| !matches!(c, ':' | ',' | '{' | '}' | '[' | ']')).await,
        _ => io.word(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$')).await,
    };
    match word.trim() {
        "" => Err(Stop::Bad(format!("expected a key, found `{}`", io.peek().await?))),
        word => Ok(word.to_owned()),
    }
}

/// Reads the colon after a key.
pub(super) async fn colon(io: &Io) -> Read {
    io.skip_space().await;
    match io.next().await? {
        ':' => Ok(()),
        c => Err(Stop::Bad(format!("expected `:` after a key, found `{c}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, syntax: Syntax) -> Option<String> {
        let mut json = String::new();
        let result = all_at_once(text, async |io| value(io, syntax, &mut Sink::Buffer(&mut json)).await);
        (result == Some(Ok(()))).then_some(json)
    }

    #[test]
    fn json_and_python_are_values() {
        for (text, json) in [
            (r#"{"a":1,"b":[true,null]}"#, r#"{"a": 1, "b": [true, null]}"#),
            ("{'a': True, 'b': (None, False, )}", r#"{"a": true, "b": [null, false]}"#),
            (" [ ] ", "[]"),
            ("{a: 1.50, b-2: -0.0e+5}", r#"{"a": 1.50, "b-2": -0.0e+5}"#),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1_000", "1000"),
            ("[0x1F, 0b101, 0o17]", "[31, 5, 15]"),
            ("[1., .5, +3]", "[1.0, 0.5, 3]"),
            ("\"a\nb\tc\u{1}\"", r#""a\nb\tc\u0001""#),
            (r#""\u00e9\ud83d\ude00\/\d""#, r#""é😀/\\d""#),
            (r#""\ud83d x""#, "\"\u{fffd} x\""),
            (r"'it\'s \x41'", r#""it's A""#),
            (r#""""#, r#""""#),
        ] {
            assert_eq!(parse(text).as_deref(), Some(json), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_value() {
        for text in
            ["", "word", "{\"a\" 1}", "[1 2]", "1 2", "{\"a\": 1", "007", "NaN", "\"a", "[1}", "{1}", "--1", "1e"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(parse(&nested(MAX_DEPTH)), Some(nested(MAX_DEPTH)));
        assert_eq!(parse(&nested(MAX_DEPTH + 1)), None);
        assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH)).is_ok());
    }

    #[test]
    fn python_has_words_and_odd_quotes() {
        for (text, json) in [
            ("['it's fine', 'b']", r#"["it's fine", "b"]"#),
            ("[New York, 3]", r#"["New York", 3]"#),
            ("['''a 'b'\n\"c\"''', '']", r#"["a 'b'\n\"c\"", ""]"#),
            ("(1, 'x')", r#"[1, "x"]"#),
        ] {
            assert_eq!(read(text, Syntax::Python).as_deref(), Some(json), "{text}");
        }
    }

    #[test]
    fn strings_between_markers_are_raw() {
        let text = r#"{a b:<|"|>x\n"y" <|<|"|>,c:{d:[<|"|><|"|>,true,None,1.5,some words]}}"#;
        let json = r#"{"a b": "x\\n\"y\" <|", "c": {"d": ["", true, null, 1.5, "some words"]}}"#;
        assert_eq!(read(text, Syntax::Marked("<|\"|>")).as_deref(), Some(json));
    }
}
