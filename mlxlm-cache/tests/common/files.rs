//! Prompt-cache files as arrays and metadata.

use std::collections::BTreeMap;
use std::path::Path;

use mlxlm_cache::Caches;
use mlxlm_core::Array;
use mlxlm_core::weights::{SafetensorsFile, save_safetensors};

/// What a file holds, by key.
pub(crate) type Arrays = BTreeMap<String, Array>;
/// What its header says.
pub(crate) type Metadata = BTreeMap<String, String>;

pub(crate) fn open(path: &Path) -> (Arrays, Metadata) {
    let file = SafetensorsFile::open(path).unwrap();
    (file.arrays().unwrap(), file.metadata())
}

pub(crate) fn write(path: &Path, arrays: Arrays, metadata: &Metadata) {
    save_safetensors(path, &arrays.into_iter().collect::<Vec<_>>(), metadata).unwrap();
}

/// The caches as we write them.
pub(crate) fn saved(caches: &Caches, metadata: &Metadata) -> (Arrays, Metadata) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    caches.save(&path, metadata).unwrap();
    open(&path)
}
