//! The models that are built in: `demo`, a tiny chat model, and `demo-draft`, a smaller one with the same tokenizer.
//!
//! Their files are part of the program. At the first use they are written into the user's cache folder, where they are
//! loaded like any other model.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use mlxlm_core::io;

use crate::{NewFolder, Result};

/// A file of a built-in model.
struct File {
    name: &'static str,
    contents: &'static [u8],
}

macro_rules! files {
    ($folder:literal) => {
        files!($folder: "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json")
    };
    ($folder:literal: $($name:literal),*) => {
        &[$(File { name: $name, contents: include_bytes!(concat!("../demo/", $folder, "/", $name)) }),*]
    };
}

/// The built-in models by name.
const MODELS: &[(&str, &[File])] = &[("demo", files!("demo")), ("demo-draft", files!("demo-draft"))];

/// The folder of the built-in model `name`, made if it is not there yet; `None` if there is no such model.
pub fn folder(name: &str) -> Result<Option<PathBuf>> {
    let Some((_, files)) = MODELS.iter().find(|(own, _)| *own == name) else { return Ok(None) };
    let folder = cache_folder().join(format!("{name}-{:016x}", fingerprint(files)));
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    let new = NewFolder::create(&folder)?;
    for file in *files {
        io::write(new.path().join(file.name), file.contents)?;
    }
    match new.finish() {
        // Another process was faster, with the same files.
        Err(_) if folder.is_dir() => {}
        finished => finished?,
    }
    Ok(Some(folder))
}

/// Tells one version of the files from another.
fn fingerprint(files: &[File]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file.name, file.contents.len()).hash(&mut hasher);
        // The weights are megabytes; a sample of them is as good a mark.
        file.contents.chunks(4096).step_by(16).for_each(|chunk| chunk[..chunk.len().min(64)].hash(&mut hasher));
    }
    hasher.finish()
}

/// `$XDG_CACHE_HOME/mlxlm`, or its usual place.
fn cache_folder() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(env::temp_dir).join("mlxlm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_built_in_names_have_a_folder() {
        assert_eq!(folder("org/demo").unwrap(), None);
    }

    #[test]
    fn both_models_load_and_share_their_tokenizer() {
        let infos = MODELS.iter().map(|(name, _)| {
            let folder = folder(name).unwrap().unwrap();
            let loaded = crate::load(folder, &crate::LoadOptions::default()).unwrap();
            assert_eq!(loaded.warnings, [""; 0]);
            (loaded.tokenizer.vocab_size(), loaded.model.info().vocab_size)
        });
        assert_eq!(infos.collect::<Vec<_>>(), [(2048, 2048); 2]);
    }

    #[test]
    fn other_files_have_another_fingerprint() {
        let of = |contents: &'static [u8]| fingerprint(&[File { name: "a", contents }]);
        assert_ne!(of(b"one"), of(b"two"));
        assert_eq!(of(b"one"), of(b"one"));
    }
}
