//! Dicts: pairs in the order in which they came, found by keys that compare as in Python.

use std::collections::HashMap;

use super::super::fault::{Fault, Result, fail};
use super::super::limits;
use super::{CONTAINER, ITEM, Text, Value};

/// What one pair counts for, in bytes: two values, the key's hash and its place.
const PAIR: usize = 4 * ITEM;

/// A dict.
#[derive(Default)]
pub(in super::super) struct Dict {
    pairs: Vec<(Value, Value)>,
    places: HashMap<Key, usize>,
    depth: u32,
}

/// A key as it compares: `1`, `1.0` and `true` are one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in super::super) enum Key {
    Undefined,
    None,
    Int(i128),
    Float(u64),
    Str(Box<str>),
    Tuple(Vec<Key>),
}

impl Key {
    /// The key that a value makes; lists and dicts make none.
    pub(in super::super) fn of(value: &Value) -> Result<Self> {
        // A key is a copy, and is not counted among what is alive.
        limits::steps(if matches!(value, Value::Tuple(_)) { 64 } else { 1 })?;
        Ok(match value {
            Value::Undefined(_) => Self::Undefined,
            Value::None => Self::None,
            Value::Bool(b) => Self::Int((*b).into()),
            Value::Int(n) => Self::Int(*n),
            Value::Float(x) if x.is_nan() => return fail("`nan` as a key"),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e30 => Self::Int(*x as i128),
            Value::Float(x) => Self::Float(x.to_bits()),
            Value::Str(text) => {
                limits::pass(text.len())?;
                Self::Str(Box::from(&**text))
            }
            Value::Tuple(items) => Self::Tuple(items.iter().map(Self::of).collect::<Result<_>>()?),
            other => return fail(format!("unhashable type: '{}'", other.type_name())),
        })
    }
}

impl Dict {
    pub(in super::super) fn from_pairs(pairs: impl IntoIterator<Item = (Value, Value)>) -> Result<Self> {
        let mut dict = Self::default();
        for (key, value) in pairs {
            dict.insert(key, value)?;
        }
        Ok(dict)
    }

    /// Adds a pair, or replaces the value of a key that is there.
    pub(in super::super) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        let depth = super::deeper([&key, &value])?;
        let found = Key::of(&key)?;
        self.depth = self.depth.max(depth);
        match self.places.get(&found).and_then(|at| self.pairs.get_mut(*at)) {
            Some(pair) => pair.1 = value,
            None => {
                limits::check_size((self.pairs.len() + 1) * PAIR)?;
                limits::hold(PAIR)?;
                self.places.insert(found, self.pairs.len());
                self.pairs.push((key, value));
            }
        }
        Ok(())
    }

    pub(in super::super) fn get(&self, key: &Value) -> Result<Option<&Value>> {
        Ok(self.at(&Key::of(key)?))
    }

    pub(in super::super) fn get_str(&self, key: &str) -> Result<Option<&Value>> {
        limits::pass(key.len())?;
        Ok(self.at(&Key::Str(Box::from(key))))
    }

    fn at(&self, key: &Key) -> Option<&Value> {
        self.places.get(key).and_then(|at| self.pairs.get(*at)).map(|pair| &pair.1)
    }

    pub(in super::super) fn pairs(&self) -> &[(Value, Value)] {
        &self.pairs
    }

    pub(in super::super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn depth(&self) -> u32 {
        self.depth.max(1)
    }

    /// The pairs with their keys as texts; Python's keywords take no other keys.
    pub(in super::super) fn keywords(&self) -> Result<Vec<(String, Value)>> {
        let name = |key: &Value| key.as_text().map(|name: &Text| name.to_string());
        self.pairs
            .iter()
            .map(|(key, value)| Ok((name(key).ok_or_else(|| Fault::new("keywords must be strings"))?, value.clone())))
            .collect()
    }
}

impl Drop for Dict {
    fn drop(&mut self) {
        limits::release(PAIR * self.pairs.len());
    }
}

const _: () = assert!(CONTAINER < PAIR, "an empty dict counts for nothing, so what holds it must count");
