//! A model folder's weights: all `model*.safetensors`, checked against the index where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::{SafetensorsFile, SmallFloat, Tensors, WeightsError};
use crate::index::Index;
use crate::{Result, io};

/// The tensors of a folder, as they lie on disk.
#[derive(Debug)]
pub struct Checkpoint {
    /// The tensors, over the mapped files.
    pub tensors: Tensors,
    /// Their size in bytes.
    pub bytes: u64,
    /// Which of them are floats that MLX has no type for, so that their arrays are bytes.
    pub small_floats: BTreeMap<String, SmallFloat>,
}

impl From<Tensors> for Checkpoint {
    /// Tensors that are in memory, of MLX's own types.
    fn from(tensors: Tensors) -> Self {
        let bytes = tensors.values().map(|array| array.nbytes() as u64).sum();
        Self { tensors, bytes, small_floats: BTreeMap::new() }
    }
}

impl Checkpoint {
    /// Maps all weight files of `folder`.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(folder, &[])
    }

    /// As [`open`](Self::open), and the files `more` where the folder has them.
    pub fn open_with(folder: impl AsRef<Path>, more: &[&str]) -> Result<Self> {
        let folder = folder.as_ref();
        let mut tensors = Tensors::new();
        let mut files = weight_files(folder)?;
        for path in more.iter().map(|name| folder.join(name)).filter(|path| path.is_file()) {
            if !files.contains(&path) {
                files.push(path);
            }
        }
        let mut from: BTreeMap<String, &Path> = BTreeMap::new();
        let mut small_floats = BTreeMap::new();
        for path in &files {
            let file = SafetensorsFile::open(path)?;
            for (name, array) in file.arrays()? {
                small_floats.extend(file.small_float(&name).map(|kind| (name.clone(), kind)));
                if let Some(first) = from.insert(name.clone(), path) {
                    let (first, second) = (first.to_owned(), path.clone());
                    return Err(WeightsError::Duplicate { name, first, second }.into());
                }
                tensors.insert(name, array);
            }
        }
        Ok(Self { small_floats, ..Self::from(tensors) })
    }
}

/// The files that hold the weights: those of the index, else every `model*.safetensors`.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_weights = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("model") && path.extension().is_some_and(|extension| extension == "safetensors")
    };
    let files: Vec<PathBuf> = io::read_dir(folder)?.into_iter().filter(is_weights).collect();
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return indexed_files(folder, &index, &files);
    }
    if files.is_empty() { Err(no_weights(folder)?.into()) } else { Ok(files) }
}

fn no_weights(folder: &Path) -> Result<WeightsError> {
    let of_pytorch = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        let [ending, begins] = [path.extension()?.to_str()?, name.split(['.', '-', '_']).next()?];
        let weights = matches!((begins, ending), ("pytorch" | "model" | "consolidated", "bin" | "pt" | "pth"));
        weights.then_some(name)
    };
    let pytorch = io::read_dir(folder)?.into_iter().find_map(of_pytorch);
    Ok(WeightsError::NoWeights { folder: folder.to_owned(), pytorch })
}

/// The files that the index names. An index that only names absent files beside a whole `model.safetensors` is stale,
/// as some conversions leave it, and the file is taken.
fn indexed_files(folder: &Path, index: &Path, files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let shards: BTreeSet<String> = io::read_json::<Index>(index)?.shards;
    let refuse = |shard: &str, why| WeightsError::Shard { index: index.to_owned(), shard: shard.to_owned(), why };
    for shard in &shards {
        if !matches!(Path::new(shard).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
            return Err(refuse(shard, "which is not a file name").into());
        }
    }
    // What is there and is no file is refused when it is opened.
    let present: Vec<PathBuf> = shards.iter().map(|shard| folder.join(shard)).filter(|path| path.exists()).collect();
    if present.is_empty() && matches!(files, [only] if only.ends_with("model.safetensors")) {
        return Ok(files.to_vec());
    }
    match shards.iter().find(|shard| !folder.join(shard).exists()) {
        Some(missing) => Err(refuse(missing, "which is not in the folder").into()),
        None if shards.is_empty() => Err(no_weights(folder)?.into()),
        None => Ok(present),
    }
}
