//! Entries that say something of each layer.

use serde::Deserialize;

use crate::{Error, Result};

/// One value for all layers, or a list with one for each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected one value, or a list with one for each layer")]
pub(crate) enum PerLayer<T> {
    All(T),
    Each(Vec<T>),
}

impl<T: Clone> PerLayer<T> {
    /// The value of a layer; `name` is that of the entry.
    pub(crate) fn at(&self, name: &str, layer: usize) -> Result<T> {
        match self {
            Self::All(value) => Ok(value.clone()),
            Self::Each(list) => of_layer(name, list, layer),
        }
    }

    /// Whether this holds of any of the values.
    pub(crate) fn any(&self, holds: impl Fn(T) -> bool) -> bool {
        match self {
            Self::All(value) => holds(value.clone()),
            Self::Each(list) => list.iter().cloned().any(holds),
        }
    }
}

/// What the list `name` has for a layer. One that is too short is an error.
pub(crate) fn of_layer<T: Clone>(name: &str, list: &[T], layer: usize) -> Result<T> {
    list.get(layer)
        .cloned()
        .ok_or_else(|| Error::config(format!("`{name}` has {} entries, and there is a layer {layer}", list.len())))
}
