//! What a GGUF file says of itself: values by key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::GgufError;

/// A value of the metadata. The widths of numbers are not kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// A number; one of 32 bits as its shortest decimal spelling.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of whole numbers.
    Integers(Vec<i64>),
    /// A list of numbers.
    Floats(Vec<f32>),
    /// A list of yes and no.
    Bools(Vec<bool>),
    /// A list of strings.
    Texts(Vec<String>),
}

/// The metadata of a file, with the file's path for errors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// Entries that come from, or go to, a file.
    pub fn new(path: impl Into<PathBuf>, entries: BTreeMap<String, Value>) -> Self {
        Self { path: path.into(), entries }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All entries, sorted by key.
    pub fn entries(&self) -> &BTreeMap<String, Value> {
        &self.entries
    }

    /// An error that names an entry of this file.
    pub fn wrong(&self, key: impl Into<String>, why: impl Into<String>) -> GgufError {
        GgufError::Metadata { path: self.path.clone(), key: key.into(), why: why.into() }
    }

    /// An entry, as `read` understands it; without one, nothing.
    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, format!("is not {expected}")))
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, GgufError> {
        self.read(key, "a whole number", |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
    }

    /// A whole number that may be given once for each layer; numbers that differ are refused.
    pub fn same_for_all(&self, key: &str) -> Result<Option<i64>, GgufError> {
        self.read(key, "one whole number, the same for all layers", |value| match value {
            Value::Integer(number) => Some(*number),
            Value::Integers(numbers) => {
                let first = numbers.first()?;
                numbers.iter().all(|number| number == first).then_some(*first)
            }
            _ => None,
        })
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.read(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    /// Yes or no.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.read(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.read(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, GgufError> {
        self.read(key, "a list of whole numbers", |value| match value {
            Value::Integers(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A list of numbers.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.read(key, "a list of numbers", |value| match value {
            Value::Floats(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.read(key, "a list of strings", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }
}
