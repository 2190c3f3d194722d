//! Files made by hand, also such as no program would write.

use std::path::{Path, PathBuf};

use mlxlm_core::io;
use mlxlm_core::weights::gguf::{GgufFile, TensorType};

/// A file in the making.
#[derive(Clone)]
pub(super) struct Builder {
    pub(super) version: u32,
    /// Keys with the number of their type and their bytes.
    pub(super) entries: Vec<(String, u32, Vec<u8>)>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) data: Vec<u8>,
}

/// What the head says of a tensor.
#[derive(Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// As in the file: the innermost dimension is the first.
    pub(super) dimensions: Vec<u64>,
    pub(super) kind: u32,
    pub(super) offset: u64,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { version: 3, entries: Vec::new(), tensors: Vec::new(), data: Vec::new() }
    }

    /// A file with two tensors and some metadata.
    pub(super) fn small() -> Self {
        let numbers: Vec<u8> = [1_f32, 2.0, 3.0, 4.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        let block: Vec<u8> = (0..18).collect();
        Self::new()
            .entry("general.architecture", 8, &text("llama"))
            .entry("llama.block_count", 4, &7_u32.to_le_bytes())
            .entry("tokenizer.ggml.tokens", 9, &texts(&["a", "b"]))
            .tensor("a", &[2, 2], TensorType::F32.number(), &numbers)
            .tensor("b", &[32, 1], TensorType::Q4_0.number(), &block)
    }

    pub(super) fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push((key.to_owned(), kind, value.to_vec()));
        self
    }

    pub(super) fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, data: &[u8]) -> Self {
        let (name, offset) = (name.to_owned(), self.data.len() as u64);
        self.tensors.push(Tensor { name, dimensions: dimensions.to_vec(), kind, offset });
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(text(&tensor.name));
            bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    /// Writes the file.
    pub(super) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        io::write(&path, self.bytes()).unwrap();
        path
    }
}

/// A string as files have it.
pub(super) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A list as files have it.
pub(super) fn list(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// A list of strings as files have it.
pub(super) fn texts(elements: &[&str]) -> Vec<u8> {
    list(8, elements.len() as u64, &elements.iter().flat_map(|element| text(element)).collect::<Vec<_>>())
}

/// Reads all of a file.
pub(super) fn read_all(path: &Path) -> mlxlm_core::Result<GgufFile> {
    let file = GgufFile::open(path)?;
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for name in names {
        file.tensor(&name)?;
    }
    Ok(file)
}
