//! The index of a model in several files, which says which they are.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

/// The part of `model.safetensors.index.json` that is read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Index {
    /// The names of the shards, as they stand there: not yet checked to be file names.
    #[serde(rename = "weight_map", deserialize_with = "values")]
    pub(crate) shards: BTreeSet<String>,
}

/// The values of an object, each once: an index has a hundred thousand keys, of which none is needed.
fn values<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    struct Values;

    impl<'de> Visitor<'de> for Values {
        type Value = BTreeSet<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of file names by tensor")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut values = BTreeSet::new();
            while let Some((IgnoredAny, file)) = entries.next_entry::<IgnoredAny, String>()? {
                values.insert(file);
            }
            Ok(values)
        }
    }

    deserializer.deserialize_map(Values)
}
