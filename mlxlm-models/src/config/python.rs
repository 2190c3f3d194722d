//! JSON as Python writes it, with numbers that JSON does not have.

use std::path::Path;

use mlxlm_core::io;
use serde_json::Value;

use crate::Result;

/// Reads a file of JSON. A bare `NaN`, `Infinity` or `-Infinity` becomes `{"__float__": "Infinity"}`, as newer tools write it.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let first = match io::read_json(path) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let spelled = spelled(&String::from_utf8_lossy(&io::read(path)?));
    // What else is wrong is reported as it stands in the file.
    Ok(serde_json::from_str(&spelled).map_err(|_| first)?)
}

/// The text with an object in the place of each number that JSON does not have.
fn spelled(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let word = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| rest.starts_with(word));
        let taken = match word {
            Some(word) => {
                out.extend([r#"{"__float__": ""#, word, r#""}"#]);
                rest = &rest[word.len()..];
                continue;
            }
            None if rest.starts_with('"') => string_len(rest),
            None => 1,
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out + rest
}

/// The length of the string that a text begins with, its quotes included.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        io::write(&path, text).unwrap();
        read_json(&path)
    }

    #[test]
    fn numbers_that_json_does_not_have_are_spelled_out_outside_of_strings() {
        let value = read(r#"{"limits": [-1.5, Infinity, -Infinity], "a\"NaN": "Infinity é", "nan": NaN}"#).unwrap();
        let number = |word: &str| json!({"__float__": word});
        let expected = json!({
            "limits": [-1.5, number("Infinity"), number("-Infinity")], "a\"NaN": "Infinity é", "nan": number("NaN"),
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn what_is_no_json_is_reported_where_it_is() {
        let error = read("{\n \"a\": Infinity,\n \"b\": Bogus}").unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("line 2"), "{error}");
        assert!(read("\"open").is_err() && read("{\"a\": -").is_err());
    }
}
