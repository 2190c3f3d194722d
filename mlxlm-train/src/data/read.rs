//! Rows from files: lines of JSON, an array of JSON objects, or Parquet.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlxlm_core::io;
use serde_json::{Map, Value};

use super::error::{Fault, Place};
use crate::{Error, Result};

/// The largest JSON array that is read; larger sets come as lines.
const MOST_BYTES: u64 = 4 << 30;

/// A row as it stands in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its fields by name.
    pub fields: Map<String, Value>,
    /// Where it stands.
    pub place: Place,
}

/// The rows of a file; what is no row goes to the faults.
pub(super) fn read(path: &Path, faults: &mut Vec<Fault>) -> Result<Vec<Record>> {
    let shared = Arc::new(path.to_owned());
    match extension(path) {
        Some("parquet") => super::parquet::read(path, &shared),
        Some("json") => {
            let bytes = io::read_within(path, MOST_BYTES)?;
            // Some call lines of JSON `.json`.
            match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'[') => Ok(array(&bytes, &shared, faults)),
                _ => lines(&bytes[..], &shared, faults),
            }
        }
        _ => lines(std::io::BufReader::new(io::open(path)?), &shared, faults),
    }
}

/// The format of a file by its name.
pub(super) fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}

/// Lines of JSON; empty ones are passed over.
fn lines(mut input: impl BufRead, path: &Arc<PathBuf>, faults: &mut Vec<Fault>) -> Result<Vec<Record>> {
    let (mut records, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line);
        let read = read.map_err(|source| {
            Error::Core(mlxlm_core::Error::Io { action: "read", path: path.to_path_buf(), source })
        })?;
        if read == 0 {
            return Ok(records);
        }
        number += 1;
        let place = Place { path: Arc::clone(path), number, is_line: true };
        // Some editors begin files with a mark of the byte order.
        let text = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| number == 1).unwrap_or(&line);
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match parse(text) {
            Ok(fields) => records.push(Record { fields, place }),
            Err((column, why)) => faults.push(Fault { place, column, why }),
        }
    }
}

/// An object, or the column of what is wrong.
fn parse(text: &[u8]) -> Result<Map<String, Value>, (Option<usize>, String)> {
    let text = std::str::from_utf8(text).map_err(|e| (Some(e.valid_up_to() + 1), "it is not UTF-8".to_owned()))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err((None, format!("it is {}, expected a JSON object", kind(&other)))),
        Err(error) => Err((Some(error.column()), without_place(&error))),
    }
}

/// What is wrong with JSON, without the line and the column that stand in front of it.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(why, _)| why.to_owned())
}

/// The kind of a JSON value, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The elements of an array, with the lines that they begin in.
fn array(bytes: &[u8], path: &Arc<PathBuf>, faults: &mut Vec<Fault>) -> Vec<Record> {
    let place = |number| Place { path: Arc::clone(path), number, is_line: true };
    let line_at = |at: usize| bytes[..at].split(|&byte| byte == b'\n').count();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let column = at - bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |line| line + 1) + 1;
            faults.push(Fault { place: place(line_at(at)), column: Some(column), why: "it is not UTF-8".into() });
            return Vec::new();
        }
    };
    let values: Vec<Value> = match serde_json::from_str(text) {
        Ok(values) => values,
        Err(error) => {
            let (column, why) = (Some(error.column()), without_place(&error));
            faults.push(Fault { place: place(error.line()), column, why });
            return Vec::new();
        }
    };
    let mut records = Vec::new();
    for (value, line) in values.into_iter().zip(element_lines(bytes)) {
        match value {
            Value::Object(fields) => records.push(Record { fields, place: place(line) }),
            other => {
                let why = format!("it is {}, expected a JSON object", kind(&other));
                faults.push(Fault { place: place(line), column: None, why });
            }
        }
    }
    records
}

/// The lines in which the elements of an array begin. The text is JSON already.
fn element_lines(bytes: &[u8]) -> Vec<usize> {
    let (mut lines, mut line, mut depth, mut in_string, mut escaped, mut awaited) =
        (Vec::new(), 1, 0, false, false, false);
    for &byte in bytes {
        if byte == b'\n' {
            line += 1;
        }
        if in_string {
            (in_string, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        if awaited && !byte.is_ascii_whitespace() && byte != b']' {
            lines.push(line);
            awaited = false;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                awaited |= depth == 1;
            }
            b']' | b'}' => depth -= 1,
            b',' if depth == 1 => awaited = true,
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_begin_where_they_are_written() {
        let text = b"[\n  {\"a\": \"[,\\\"\\\\\"},\n{\"b\": [1,\n2]}, {\"c\": {}}\n,\n\n3]";
        assert_eq!(element_lines(text), [2, 3, 4, 7]);
        assert_eq!(element_lines(b"[]"), Vec::<usize>::new());
        assert_eq!(element_lines(b"[ [1], 2 ]"), [1, 1]);
    }
}
