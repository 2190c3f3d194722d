//! A mapped GGUF file, or all parts of one that was split.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::MmapRaw;

use super::header::{Fault, Header, TensorInfo};
use super::{GgufError, Metadata};
use crate::weights::WeightsError;
use crate::weights::shard::{contents, map};
use crate::{Error, Result, io};

/// The most parts that a model is split into.
const MAX_PARTS: i64 = 10_000;

/// A mapped GGUF file. A file must not be changed while it is mapped.
#[derive(Debug)]
pub struct GgufFile {
    metadata: Metadata,
    parts: Vec<Part>,
    /// The tensors, with the number of the part that they lie in.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
}

/// One mapped file.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    map: Arc<MmapRaw>,
}

impl GgufFile {
    /// Maps a file and checks its head. Of a split file, `path` is the first part, and the others lie beside it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (part, head) = open_part(path)?;
        let metadata = Metadata::new(path, head.entries);
        let count = metadata.integer("split.count")?.unwrap_or(1);
        let number = metadata.integer("split.no")?.unwrap_or(0);
        if !(0..=MAX_PARTS).contains(&count) || number != 0 {
            let why = format!("is part {} of {count}", number.saturating_add(1));
            return Err(GgufError::Part { path: path.to_owned(), why }.into());
        }
        let mut file = Self { metadata, parts: Vec::new(), tensors: BTreeMap::new() };
        file.add(part, head.tensors)?;
        for number in 1..count {
            let path = part_path(path, number, count)?;
            let (part, head) = open_part(&path)?;
            let own = Metadata::new(&path, head.entries);
            if own.integer("split.no")? != Some(number) {
                let why = format!("is not part {} of {count}, as its name says", number + 1);
                return Err(GgufError::Part { path, why }.into());
            }
            file.add(part, head.tensors)?;
        }
        file.check_count()?;
        Ok(file)
    }

    fn add(&mut self, part: Part, tensors: Vec<TensorInfo>) -> Result<()> {
        let path = part.path.clone();
        let index = self.parts.len();
        self.parts.push(part);
        for tensor in tensors {
            let name = tensor.name.clone();
            if let Some((first, _)) = self.tensors.insert(name.clone(), (index, tensor)) {
                let first = self.parts.get(first).map_or_else(PathBuf::new, |part| part.path.clone());
                return Err(WeightsError::Duplicate { name, first, second: path }.into());
            }
        }
        Ok(())
    }

    /// The tensors of all parts must be as many as the first says.
    fn check_count(&self) -> Result<()> {
        let said = self.metadata.integer("split.tensors.count")?;
        match said {
            Some(said) if usize::try_from(said) != Ok(self.tensors.len()) => {
                let why = format!("is {said}, and the parts hold {} tensors", self.tensors.len());
                Err(self.metadata.wrong("split.tensors.count", why).into())
            }
            _ => Ok(()),
        }
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, from the outermost dimension to the innermost.
    pub fn shape(&self, name: &str) -> Option<&[i32]> {
        self.tensors.get(name).map(|(_, tensor)| tensor.shape.as_slice())
    }

    /// A tensor and the file that it lies in.
    pub(super) fn find(&self, name: &str) -> Result<(&TensorInfo, &Arc<MmapRaw>)> {
        let found = self.tensors.get(name).and_then(|(part, info)| Some((info, &self.parts.get(*part)?.map)));
        found.ok_or_else(|| {
            let why = format!("it has no tensor `{name}`");
            GgufError::Damaged { path: self.metadata.path().to_owned(), why }.into()
        })
    }
}

fn open_part(path: &Path) -> Result<(Part, Header)> {
    let file = io::open(path)?;
    let map = map(&file).map_err(|source| Error::Io { action: "map", path: path.to_owned(), source })?;
    let header = Header::read(contents(&map)).map_err(|fault| {
        let path = path.to_owned();
        match fault {
            Fault::Damaged(why) => GgufError::Damaged { path, why },
            Fault::Unsupported(what) => GgufError::Unsupported { path, what },
        }
    })?;
    Ok((Part { path: path.to_owned(), map: Arc::new(map) }, header))
}

/// The path of the part `number`, from 0, beside the first: `model-00001-of-00003.gguf` and so on.
fn part_path(first: &Path, number: i64, count: i64) -> Result<PathBuf> {
    let name = first.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&format!("-00001-of-{count:05}.gguf")) else {
        let why = format!("is the first of {count} parts, and its name does not end in `-00001-of-{count:05}.gguf`");
        return Err(GgufError::Part { path: first.to_owned(), why }.into());
    };
    let path = first.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", number + 1));
    match path.is_file() {
        true => Ok(path),
        false => Err(GgufError::Part { path, why: "is not there".into() }.into()),
    }
}
