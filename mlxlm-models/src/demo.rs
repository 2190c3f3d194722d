//! The models that are built in: `demo`, a tiny chat model, and `demo-draft`, a smaller one with the same tokenizer.
//!
//! Their files are part of the program. At the first use they are written into the user's cache folder, or, where that cannot be
//! written to, into a private folder among the system's temporary files; from there they are loaded like any other model.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use mlxlm_core::io;

use crate::{Error, NewFolder, Result};

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

/// The built-in models: their names and the bytes of their weights.
pub fn names() -> impl Iterator<Item = (&'static str, u64)> {
    let weights = |files: &[File]| {
        files.iter().filter(|file| file.name == "model.safetensors").map(|file| file.contents.len() as u64).sum::<u64>()
    };
    MODELS.iter().map(move |(name, files)| (*name, weights(files)))
}

/// The folder of the built-in model `name`, made if it is not there yet; `None` if there is no such model.
///
/// What a folder that was made earlier has lost, or what has changed in it, is written again.
pub fn folder(name: &str) -> Result<Option<PathBuf>> {
    let Some((_, files)) = MODELS.iter().find(|(own, _)| *own == name) else { return Ok(None) };
    let versioned = format!("{name}-{:016x}", fingerprint(files));
    let usual = cache_folder().and_then(|cache| {
        let folder = cache.join(&versioned);
        fill(&folder, files).map(|()| folder)
    });
    // Services and guests have no home folder, or none that they may write to.
    let folder = usual.or_else(|error| {
        let Ok(temporary) = io::private_temporary_dir("mlxlm") else { return Err(error) };
        let folder = temporary.join(&versioned);
        fill(&folder, files).map(|()| folder)
    })?;
    Ok(Some(folder))
}

/// Brings `folder` to hold these files.
fn fill(folder: &Path, files: &[File]) -> Result<()> {
    if !folder.is_dir() {
        let new = NewFolder::create(folder)?;
        for file in files {
            io::write(new.path().join(file.name), file.contents)?;
        }
        match new.finish() {
            // Another process was faster, with the same files.
            Err(Error::Exists { .. }) => {}
            finished => return finished,
        }
    }
    for file in files {
        let path = folder.join(file.name);
        let same = io::read_within(&path, file.contents.len() as u64).is_ok_and(|found| found == file.contents);
        if !same {
            io::write(path, file.contents)?;
        }
    }
    Ok(())
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

/// `$XDG_CACHE_HOME/mlxlm`, or its usual place in the user's home folder. A folder for all users is none: others could
/// put a model of theirs there first.
fn cache_folder() -> Result<PathBuf> {
    let set = |folder: &PathBuf| !folder.as_os_str().is_empty();
    let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(set);
    let base = named.or_else(|| env::home_dir().filter(set).map(|home| home.join(".cache")));
    Ok(base.ok_or(Error::NoHome)?.join("mlxlm"))
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
    fn what_was_lost_or_changed_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("demo-0");
        let files = [File { name: "a", contents: b"one" }, File { name: "b", contents: b"two" }];
        let check = || {
            fill(&folder, &files).unwrap();
            for file in &files {
                assert_eq!(io::read(folder.join(file.name)).unwrap(), file.contents);
            }
            assert_eq!(io::read_dir(cache.path()).unwrap(), [folder.clone()]);
        };
        check();
        std::fs::remove_file(folder.join("a")).unwrap();
        check();
        std::fs::write(folder.join("b"), "owt").unwrap();
        check();
        std::fs::write(folder.join("b"), "two and more").unwrap();
        check();
    }

    #[test]
    fn other_files_have_another_fingerprint() {
        let of = |contents: &'static [u8]| fingerprint(&[File { name: "a", contents }]);
        assert_ne!(of(b"one"), of(b"two"));
        assert_eq!(of(b"one"), of(b"one"));
    }
}
