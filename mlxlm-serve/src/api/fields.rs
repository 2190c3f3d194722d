//! The fields of a request: each is asked for by name, with the values that it may have, and what nobody asked for is refused.
//!
//! `null` is as good as absent. Every complaint names the field by its path, as in `messages[2].content[0].text`.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::{ApiError, Result};

/// An object of a request.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    /// Where it stands; empty for the request itself.
    path: String,
    map: Map<String, Value>,
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Fields {
    /// The request itself.
    pub(crate) fn of_request(value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { path: String::new(), map }),
            other => Err(ApiError::bad(format!("the request is {}, expected a JSON object", kind(&other)))),
        }
    }

    /// An object somewhere in the request.
    pub(crate) fn at(path: impl Into<String>, value: Value) -> Result<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(wrong(&path, &other, "an object")),
        }
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A complaint about a field.
    pub(crate) fn error(&self, name: &str, message: impl Display) -> ApiError {
        ApiError::field(self.path(name), message)
    }

    /// Whether the field is there, and not `null`.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether the field is there, be it `null`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// A field that is left where it is.
    pub(crate) fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// A field of any kind.
    pub(crate) fn any(&mut self, name: &str) -> Option<Value> {
        // The order of the others is of no use to anybody.
        self.map.swap_remove(name).filter(|value| !value.is_null())
    }

    /// A field that has to be there.
    pub(crate) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| ApiError { code: Some("missing_required_parameter"), ..self.error(name, "is missing") })
    }

    /// A string.
    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.path(name), &other, "a string")),
        }
    }

    /// One of some words.
    pub(crate) fn word(&mut self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        let found = words.iter().find(|word| **word == text).copied();
        let listed = || words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        found.map(Some).ok_or_else(|| self.error(name, format!("is `{}`, expected one of {}", cut(&text), listed())))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(&self.path(name), &other, "a boolean")),
        }
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(value) = self.any(name) else { return Ok(None) };
        let number = value.as_u64().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let expected = match *range.end() {
                u64::MAX => format!("a whole number of at least {}", range.start()),
                end => format!("a whole number from {} to {end}", range.start()),
            };
            wrong(&self.path(name), &value, &expected)
        })
    }

    /// A number of items, as an index.
    pub(crate) fn count(&mut self, name: &str, range: RangeInclusive<u64>) -> Result<Option<usize>> {
        Ok(self.integer(name, range)?.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// A number.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(value) = self.any(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let expected = match (*range.start(), *range.end()) {
                (f64::MIN, f64::MAX) => "a number".to_owned(),
                (start, f64::MAX) => format!("a number of at least {start}"),
                (start, end) => format!("a number from {start} to {end}"),
            };
            wrong(&self.path(name), &value, &expected)
        })
    }

    /// A list.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(&self.path(name), &other, "a list")),
        }
    }

    /// An object, as it is.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(wrong(&self.path(name), &other, "an object")),
        }
    }

    /// An object, as fields.
    pub(crate) fn fields(&mut self, name: &str) -> Result<Option<Self>> {
        let path = self.path(name);
        Ok(self.object(name)?.map(|map| Self { path, map }))
    }

    /// A field, to change it in place.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.map.get_mut(name)
    }

    /// Fields that say something about the request and change no answer.
    pub(crate) fn pass_over(&mut self, names: &[&str]) {
        for name in names {
            self.any(name);
        }
    }

    /// A field that this server acts on with these values only.
    pub(crate) fn only(&mut self, name: &str, allowed: &[Value], why: &str) -> Result<()> {
        match self.any(name) {
            Some(value) if !allowed.contains(&value) => Err(ApiError::unsupported(self.path(name), why)),
            _ => Ok(()),
        }
    }

    /// What nobody asked for.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self) -> Result<()> {
        let left = self.map.iter().find(|(_, value)| !value.is_null());
        match left {
            Some((name, _)) => {
                let path = self.path(cut(name));
                Err(ApiError { code: Some("unknown_parameter"), ..ApiError::field(path, "is not a known field") })
            }
            None => Ok(()),
        }
    }
}

/// A value of the wrong kind or out of range.
pub(crate) fn wrong(path: &str, value: &Value, expected: &str) -> ApiError {
    let shown = match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => kind(other).to_owned(),
    };
    ApiError::field(path, format!("is {shown}, expected {expected}"))
}

/// The beginning of a text that a client sent.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::of_request(value).unwrap()
    }

    #[test]
    fn a_complaint_names_the_field_and_what_it_may_be() {
        let mut fields = fields(json!({"a": {"n": -1, "t": 2, "x": f64::INFINITY.to_string()}}));
        let mut a = fields.fields("a").unwrap().unwrap();
        let error = a.integer("n", 1..=u64::MAX).unwrap_err();
        assert_eq!(error.message, "`a.n` is -1, expected a whole number of at least 1");
        assert_eq!(error.param.as_deref(), Some("a.n"));
        assert_eq!(a.number("t", 0.0..=1.0).unwrap_err().message, "`a.t` is 2, expected a number from 0 to 1");
        assert_eq!(a.number("x", f64::MIN..=f64::MAX).unwrap_err().message, "`a.x` is a string, expected a number");
    }

    #[test]
    fn null_is_absent_and_the_rest_is_refused() {
        let mut given = fields(json!({"a": null, "b": null, "c": 1}));
        assert_eq!(given.string("a").unwrap(), None);
        assert_eq!(given.finish().unwrap_err().message, "`c` is not a known field");
        assert!(fields(json!({"a": null})).finish().is_ok());
        assert_eq!(Fields::of_request(json!([])).unwrap_err().message, "the request is a list, expected a JSON object");
    }
}
