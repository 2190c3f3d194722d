//! What a safetensors header must hold to beside what the `safetensors` crate checks (sizes, offsets, overlaps).

use std::collections::HashSet;
use std::fmt;

use safetensors::tensor::Metadata;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

/// Real names have about a hundred.
const LONGEST_NAME_BYTES: usize = 1000;
const MOST_DIMENSIONS: usize = 16;

/// Checks the names and shapes of a header: its JSON text, and what was read from it.
pub(super) fn check(text: &[u8], header: &Metadata) -> Result<(), String> {
    check_names(text)?;
    for name in header.offset_keys() {
        let shape = header.info(&name).map_or(&[][..], |info| &info.shape);
        if shape.len() > MOST_DIMENSIONS {
            return Err(format!("`{name}` has {} dimensions, expected {MOST_DIMENSIONS} at most", shape.len()));
        }
        if shape.iter().any(|&n| i32::try_from(n).is_err()) {
            return Err(format!("the shape of `{name}`, {shape:?}, is beyond 32 bits"));
        }
    }
    Ok(())
}

/// Refuses the same name twice, where the last entry would silently win, and names beyond all reason.
fn check_names(text: &[u8]) -> Result<(), String> {
    let mut wrong = None;
    let read = Names(&mut wrong).deserialize(&mut serde_json::Deserializer::from_slice(text));
    wrong.map_or(read.map_err(|error| error.to_string()), Err)
}

/// Goes over the keys of an object, and says what is wrong with one of them.
struct Names<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some((name, IgnoredAny)) = entries.next_entry::<String, IgnoredAny>()? {
            if name.len() > LONGEST_NAME_BYTES {
                let start: String = name.chars().take(40).collect();
                *self.0 = Some(format!("the name `{start}…` of a tensor has {} bytes", name.len()));
            } else if let Some(name) = seen.replace(name) {
                *self.0 = Some(format!("it has two tensors `{name}`"));
            }
            if self.0.is_some() {
                return Err(A::Error::custom("a name cannot be used"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_short() {
        assert_eq!(check_names(br#"{"a": 1, "b": {"a": [2]}}"#), Ok(()));
        assert_eq!(check_names(br#"{"a": 1, "b": 2, "\u0061": 1}"#), Err("it has two tensors `a`".into()));
        let long = format!(r#"{{"{}": 1}}"#, "é".repeat(501));
        let expected = format!("the name `{}…` of a tensor has 1002 bytes", "é".repeat(40));
        assert_eq!(check_names(long.as_bytes()), Err(expected));
        assert!(check_names(b"[]").unwrap_err().contains("expected an object"));
    }
}
