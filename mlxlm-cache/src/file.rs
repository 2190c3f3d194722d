//! Prompt-cache files: safetensors in the layout of Python mlx-lm, so a file of either side loads in the other.
//!
//! Arrays have the key `{layer}.{part}`, with the parts of each class of cache in a fixed order. Two layouts exist:
//!
//! - Since 0.32.0, which is what is written: metadata `[user metadata, class names, scalars]`. Numbers, strings and
//!   `None` are stored as arrays and listed under `scalars`, whose first entry, `2.0`, is empty. That tells it from
//! - the one before: metadata `[numbers of each cache, user metadata, class names]`, where `2.0` is a class name.
//!
//! Python quantizes caches of the KV kind only, keys and values at the same bits. What else is quantized is of classes of ours, whose
//! names Python refuses: the parts of the class that they extend, and behind them group size and bits; in those whose names begin with
//! `Mixed` the bits of keys, those of values, and for each of the two whether it is rotated.
//!
//! An entry of the store on disk ([`Entry`]) is such a file too. What it has besides lies where Python does not look, behind the
//! arrays of the last layer `n`: the tokens read (`{n}.0`), checksums (`{n}.1`), and layers of checkpoints (`{n + 1}` and so on).
//!
//! Everything is checked before it is used. Arrays are the mapped file where the platform allows it, in memory that is private to
//! this process: what is added to a cache never reaches the file. The file must not be changed in place while its caches are
//! used; to write another one and rename it, as everything here does, is fine.

mod fields;
mod read;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_core::Array;
use mlxlm_core::weights::{SafetensorsFile, SafetensorsPlan, save_safetensors, verify_safetensors};

use crate::{Error, FileProblem, LayerCache, Result};
use fields::{Fields, Layout, Reader};
use write::Writer;

pub(crate) use write::class;

/// A rotating cache of ours that is quantized.
const QUANTIZED_ROTATING: &str = "QuantizedRotatingKVCache";
/// A chunked cache of ours that is quantized.
const QUANTIZED_CHUNKED: &str = "QuantizedChunkedKVCache";
/// Keys and values with bits of their own, or rotated.
const MIXED: &str = "MixedQuantizedKVCache";
const MIXED_ROTATING: &str = "MixedQuantizedRotatingKVCache";
const MIXED_CHUNKED: &str = "MixedQuantizedChunkedKVCache";

/// Where the metadata of an entry has the name of its checksums.
const SUMS: &str = "0.checksums";

/// Writes the caches of all layers.
pub(crate) fn save(path: &Path, layers: &[LayerCache], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut writer = Writer::default();
    write_layers(&mut writer, 0, layers)?;
    let header = header(&mut writer, layers, metadata);
    let arrays: Vec<(String, Array)> = writer.tensors.into_iter().map(|tensor| (tensor.name, tensor.array)).collect();
    Ok(save_safetensors(path, &arrays, &header)?)
}

fn write_layers<'a>(writer: &mut Writer, first: usize, layers: impl IntoIterator<Item = &'a LayerCache>) -> Result<()> {
    let mut numbered = layers.into_iter().zip(first..);
    numbered.try_for_each(|(layer, i)| write::layer(writer, &i.to_string(), layer))
}

fn header(writer: &mut Writer, layers: &[LayerCache], metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut header: BTreeMap<String, String> =
        metadata.iter().map(|(key, value)| (format!("0.{key}"), value.clone())).collect();
    header.extend(layers.iter().enumerate().map(|(i, layer)| (format!("1.{i}"), class(layer).to_owned())));
    header.insert("2.0".into(), String::new());
    for (i, (key, kind)) in std::mem::take(&mut writer.scalars).into_iter().enumerate() {
        header.insert(format!("2.{}.0", i + 1), key);
        header.insert(format!("2.{}.1", i + 1), kind.to_owned());
    }
    header
}

/// Reads the caches of all layers, and the user's metadata.
pub(crate) fn load(path: &Path) -> Result<(Vec<LayerCache>, BTreeMap<String, String>)> {
    let reader = Reader::new(SafetensorsFile::open(path)?)?;
    let (user, classes) = match reader.layout {
        Layout::Current => ("0.", "1."),
        Layout::Old => ("1.", "2."),
    };
    let count = reader.metadata.keys().filter(|key| key.starts_with(classes)).count();
    let mut layers = Vec::new();
    for i in 0..count {
        let class = reader.metadata(&format!("{classes}{i}"))?;
        layers.push(layer(&reader, i, class)?);
    }
    let is_entry = reader.metadata.contains_key(SUMS);
    reader.check_all_used(is_entry.then_some(count))?;
    let strip = |(key, value): (&String, &String)| Some((key.strip_prefix(user)?.to_owned(), value.clone()));
    Ok((layers, reader.metadata.iter().filter_map(strip).collect()))
}

fn layer(reader: &Reader, i: usize, class: &str) -> Result<LayerCache> {
    read::layer(&Fields { reader, at: i.to_string(), meta: format!("0.{i}") }, class, 0)
}

/// What a file with an entry of the store is going to be: the caches with room for more tokens, and `beside` them single layers.
pub(crate) fn plan_entry(
    layers: &[LayerCache],
    beside: &[&LayerCache],
    tokens: &[u32],
    metadata: &BTreeMap<String, String>,
) -> Result<SafetensorsPlan> {
    let count = layers.len();
    let mut writer = Writer { room: true, ..Writer::default() };
    write_layers(&mut writer, 0, layers)?;
    writer.array(format!("{count}.0"), Array::from_slice(tokens, &[tokens.len() as i32]));
    write_layers(&mut writer, count + 1, beside.iter().copied())?;
    let sums = format!("{count}.1");
    let mut header = header(&mut writer, layers, metadata);
    header.insert(SUMS.to_owned(), sums.clone());
    Ok(SafetensorsPlan::new(writer.tensors, &sums, &header)?)
}

/// An entry of the store on disk, of which nothing but the header and the numbers has been read.
pub(crate) struct Entry {
    reader: Reader,
    count: usize,
}

impl Entry {
    /// Opens an entry, and holds its header and its small arrays against their checksums.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let reader = Reader::new(SafetensorsFile::open_checked(path, SUMS)?)?;
        let count = reader.metadata.keys().filter(|key| key.starts_with("1.")).count();
        Ok(Self { reader, count })
    }

    /// Reads all of an entry, and holds it against its checksums.
    pub(crate) fn verify(path: &Path) -> Result<()> {
        Ok(verify_safetensors(path, SUMS)?)
    }

    /// What was given as metadata under a key.
    pub(crate) fn metadata(&self, key: &str) -> Result<&str> {
        self.reader.metadata(&format!("0.{key}"))
    }

    /// The tokens that its caches have read.
    pub(crate) fn tokens(&self) -> Result<Vec<u32>> {
        let array = self.reader.array(&format!("{}.0", self.count))?;
        Ok(array.to_vec_exact::<u32>().map_err(mlxlm_core::Error::from)?)
    }

    /// How many layers its caches have.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The cache of a layer. To be asked for once.
    pub(crate) fn layer(&self, i: usize) -> Result<LayerCache> {
        layer(&self.reader, i, self.reader.metadata(&format!("1.{i}"))?)
    }

    /// A layer beside the caches, which is of this class. To be asked for once.
    pub(crate) fn beside(&self, i: usize, class: &str) -> Result<LayerCache> {
        layer(&self.reader, self.count.saturating_add(1).saturating_add(i), class)
    }

    /// The error of this file.
    pub(crate) fn fail(&self, why: impl Into<String>) -> Error {
        self.reader.fail(FileProblem::Entry { why: why.into() })
    }
}

/// The error of a file.
fn problem(path: &Path, problem: FileProblem) -> Error {
    Error::File { path: path.to_owned(), problem }
}
