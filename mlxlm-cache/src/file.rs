//! Prompt-cache files: safetensors in the layout of Python mlx-lm, so a file of either side loads in the other.
//!
//! Arrays have the key `{layer}.{part}`, with the parts of each class of cache in a fixed order. Two layouts exist:
//!
//! - Since 0.32.0, which is what is written: metadata `[user metadata, class names, scalars]`. Numbers, strings and
//!   `None` are stored as arrays and listed under `scalars`, whose first entry, `2.0`, is empty. That tells it from
//! - the one before: metadata `[numbers of each cache, user metadata, class names]`, where `2.0` is a class name.
//!
//! Everything is checked before it is used; arrays are copied out of the mapped file, because MLX may write the update
//! of a buffer into its memory.

mod fields;
mod read;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::weights::{SafetensorsFile, save_safetensors};

use crate::{Error, FileProblem, LayerCache, Result};
use fields::{Fields, Layout, Reader};
use write::Writer;

/// Writes the caches of all layers.
pub(crate) fn save(path: &Path, layers: &[LayerCache], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut writer = Writer::default();
    for (i, layer) in layers.iter().enumerate() {
        write::layer(&mut writer, &i.to_string(), layer)?;
    }
    let mut header: BTreeMap<String, String> =
        metadata.iter().map(|(key, value)| (format!("0.{key}"), value.clone())).collect();
    header.extend(layers.iter().enumerate().map(|(i, layer)| (format!("1.{i}"), write::class(layer).to_owned())));
    header.insert("2.0".into(), String::new());
    for (i, (key, kind)) in writer.scalars.into_iter().enumerate() {
        header.insert(format!("2.{}.0", i + 1), key);
        header.insert(format!("2.{}.1", i + 1), kind.to_owned());
    }
    Ok(save_safetensors(path, &writer.arrays, &header)?)
}

/// Reads the caches of all layers, and the user's metadata.
pub(crate) fn load(path: &Path) -> Result<(Vec<LayerCache>, BTreeMap<String, String>)> {
    let file = SafetensorsFile::open(path)?;
    let reader = Reader::new(path, file.arrays()?, file.metadata())?;
    let (user, classes) = match reader.layout {
        Layout::Current => ("0.", "1."),
        Layout::Old => ("1.", "2."),
    };
    let count = reader.metadata.keys().filter(|key| key.starts_with(classes)).count();
    let mut layers = Vec::new();
    for i in 0..count {
        let class = reader.metadata(&format!("{classes}{i}"))?;
        let fields = Fields { reader: &reader, at: i.to_string(), meta: format!("0.{i}") };
        layers.push(read::layer(&fields, class, 0)?);
    }
    reader.check_all_used()?;
    let strip = |(key, value): (&String, &String)| Some((key.strip_prefix(user)?.to_owned(), value.clone()));
    Ok((layers, reader.metadata.iter().filter_map(strip).collect()))
}

/// The error of a file.
fn problem(path: &Path, problem: FileProblem) -> Error {
    Error::File { path: path.to_owned(), problem }
}
