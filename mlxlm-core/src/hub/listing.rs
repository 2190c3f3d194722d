//! What a commit of a repository holds, and which of it a model needs.
//!
//! Every path and hash of a listing is checked here, since both become names of files in the cache.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};

use super::hash::Hash;
use crate::index::Index;

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path within the repository, with `/` between folders.
    pub path: String,
    pub size_bytes: u64,
    pub hash: Hash,
}

/// Why a listing cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadEntry {
    /// The path would lead out of the snapshot folder.
    Path(String),
    /// A field is missing or of the wrong kind.
    Shape(String),
}

/// The most files that a repository may list; the largest have some ten thousand.
const MOST_ENTRIES: usize = 1_000_000;

/// One element of the answer of `/api/models/{repo}/tree/{commit}`.
#[derive(Deserialize)]
struct TreeItem {
    r#type: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

impl TreeItem {
    /// The file that it describes, or none for a folder.
    fn entry(self) -> Result<Option<Entry>, BadEntry> {
        if self.r#type != "file" {
            return Ok(None);
        }
        let (size_bytes, hash) = match self.lfs {
            Some(large) => (large.size, Hash::Sha256(large.oid)),
            None => (self.size, Hash::Git(self.oid)),
        };
        Entry { path: self.path, size_bytes, hash }.checked().map(Some)
    }
}

/// A listing that is read element by element, so that only what is kept of it lies in memory. Its pages follow one
/// another.
#[derive(Default)]
pub(super) struct Listing {
    /// The files so far.
    pub entries: Vec<Entry>,
    /// Why it cannot be used, if that is not a fault of the JSON.
    pub bad: Option<BadEntry>,
}

impl<'de> DeserializeSeed<'de> for &mut Listing {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Listing {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<TreeItem>()? {
            match item.entry() {
                Ok(entry) => self.entries.extend(entry),
                Err(bad) => self.bad = Some(bad),
            }
            if self.entries.len() > MOST_ENTRIES {
                self.bad = Some(BadEntry::Shape(format!("the listing has more than {MOST_ENTRIES} files")));
            }
            if self.bad.is_some() {
                return Err(A::Error::custom("the listing cannot be used"));
            }
        }
        Ok(())
    }
}

/// The listing that Python's client keeps, `trees/<commit>.json`.
#[derive(Deserialize)]
pub(super) struct Tree {
    format_version: u64,
    files: BTreeMap<String, TreeFile>,
}

#[derive(Deserialize)]
struct TreeFile {
    blob_id: String,
    #[serde(default)]
    size: u64,
    lfs_sha256: Option<String>,
    #[serde(default)]
    lfs_size: u64,
}

impl Tree {
    /// The files, or none if they are not listed in a way that is known.
    pub(super) fn entries(self) -> Option<Vec<Entry>> {
        let entry = |(path, file): (String, TreeFile)| {
            let (size_bytes, hash) = match file.lfs_sha256 {
                Some(sha256) => (file.lfs_size, Hash::Sha256(sha256)),
                None => (file.size, Hash::Git(file.blob_id)),
            };
            Entry { path, size_bytes, hash }.checked().ok()
        };
        (self.format_version == 1).then_some(self.files)?.into_iter().map(entry).collect()
    }
}

impl Entry {
    fn checked(self) -> Result<Self, BadEntry> {
        if !is_inside(&self.path) {
            return Err(BadEntry::Path(self.path));
        }
        if !self.hash.is_sound() {
            return Err(BadEntry::Shape(format!("`{}` is not the hash of `{}`", self.hash.as_str(), self.path)));
        }
        Ok(self)
    }
}

/// Whether a path of the listing stays below the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    const LONGEST_BYTES: usize = 1024;
    let plain = !path.is_empty()
        && path.len() <= LONGEST_BYTES
        && !path.contains(['\\', '\0'])
        && !path.chars().any(char::is_control);
    plain
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Whether a model may need this file: the patterns of mlx-lm's `load`, where `*` also stands for `/`.
///
/// Unlike there, `*.py` is not among them, because nothing of a model folder is executed here.
pub(super) fn is_wanted(path: &str) -> bool {
    const PATTERNS: [&str; 8] = [
        "*.json",
        "model*.safetensors",
        "tokenizer.model",
        "*.tiktoken",
        "tiktoken.model",
        "*.txt",
        "*.jsonl",
        "*.jinja",
    ];
    PATTERNS.iter().any(|pattern| match pattern.split_once('*') {
        Some((start, end)) => path.len() >= start.len() + end.len() && path.starts_with(start) && path.ends_with(end),
        None => path == *pattern,
    })
}

/// Whether this is a weight file that a loader reads: in the topmost folder, `model*.safetensors`.
pub(super) fn is_weights(path: &str) -> bool {
    !path.contains('/') && path.starts_with("model") && path.ends_with(".safetensors")
}

/// The files that a model needs, with the shards of its index alone where the repository holds all of these.
///
/// An index whose shards are not there is stale (the weights were merged later), and all weight files count.
pub(super) fn needed<'a>(entries: &'a [Entry], index: Option<&Index>) -> Vec<&'a Entry> {
    let listed: HashSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    let shards = index.map(|index| &index.shards).filter(|shards| !shards.is_empty());
    let trusted = shards.filter(|shards| shards.iter().all(|name| listed.contains(name.as_str())));
    let keep = |entry: &&Entry| match trusted {
        Some(shards) if entry.path.ends_with(".safetensors") => shards.contains(&entry.path),
        _ => is_wanted(&entry.path),
    };
    entries.iter().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file(path: &str) -> Entry {
        let hash = Hash::Git("0".repeat(40));
        Entry { path: path.to_owned(), size_bytes: 1, hash }
    }

    fn check_needed(paths: &[&str], index: Option<Value>, expected: &[&str]) {
        let entries: Vec<Entry> = paths.iter().map(|path| file(path)).collect();
        // What is no index counts as none.
        let index: Option<Index> = index.and_then(|index| serde_json::from_value(index).ok());
        let got: Vec<&str> = needed(&entries, index.as_ref()).iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn what_a_model_needs() {
        let paths = [
            ".gitattributes",
            "README.md",
            "config.json",
            "modeling_x.py",
            "model.safetensors",
            "pytorch_model.bin",
            "tokenizer.model",
            "vocab.txt",
            "chat_template.jinja",
            "qwen.tiktoken",
            "model-q4.gguf",
            "onnx/config.json",
            "consolidated.safetensors",
        ];
        let expected = [
            "config.json",
            "model.safetensors",
            "tokenizer.model",
            "vocab.txt",
            "chat_template.jinja",
            "qwen.tiktoken",
            "onnx/config.json",
        ];
        check_needed(&paths, None, &expected);
    }

    #[test]
    fn an_index_selects_its_shards() {
        let index = json!({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}});
        let sharded = [INDEX, "model-1-of-2.safetensors", "model-2-of-2.safetensors", "model-old.safetensors"];
        check_needed(&sharded, Some(index.clone()), &sharded[..3]);
        let stale = [INDEX, "model.safetensors", "model-1-of-2.safetensors"];
        check_needed(&stale, Some(index), &stale);
        check_needed(&stale, Some(json!([1])), &stale);
        let elsewhere = json!({"weight_map": {"a": "../../secret.safetensors", "b": 7}});
        check_needed(&stale, Some(elsewhere), &stale);
    }

    proptest::proptest! {
        #[test]
        fn what_is_inside_stays_inside(path in "[a./\\\\~\u{0}é]{0,12}") {
            let joined = Path::new("/cache/snapshot").join(&path);
            let plain = joined.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
            let inside = joined.starts_with("/cache/snapshot") && joined != Path::new("/cache/snapshot") && plain;
            proptest::prop_assert!(!is_inside(&path) || inside, "{path:?}");
        }
    }

    /// What one element of a listing says.
    fn from_tree(item: &Value) -> Result<Option<Entry>, BadEntry> {
        let mut listing = Listing::default();
        let read = listing.deserialize(&mut serde_json::Deserializer::from_str(&json!([item]).to_string()));
        match (listing.bad.take(), read) {
            (Some(bad), _) => Err(bad),
            (None, Err(error)) => Err(BadEntry::Shape(error.to_string())),
            (None, Ok(())) => Ok(listing.entries.pop()),
        }
    }

    #[test]
    fn entries_are_checked() {
        let good = json!({"type": "file", "path": "a/b.json", "oid": "0".repeat(40), "size": 3});
        assert_eq!(from_tree(&good).unwrap().unwrap(), Entry { size_bytes: 3, ..file("a/b.json") });
        let large = json!({"type": "file", "path": "m", "oid": "0".repeat(40), "size": 3,
            "lfs": {"oid": "1".repeat(64), "size": 9, "pointerSize": 130}});
        let expected = Entry { path: "m".into(), size_bytes: 9, hash: Hash::Sha256("1".repeat(64)) };
        assert_eq!(from_tree(&large).unwrap().unwrap(), expected);
        let folder = json!({"type": "directory", "path": "a", "oid": "0".repeat(40)});
        assert_eq!(from_tree(&folder).unwrap(), None);
        for bad in [json!({"type": "file"}), json!(3), json!({"type": "file", "path": "a", "oid": "../x", "size": 1})] {
            assert!(matches!(from_tree(&bad), Err(BadEntry::Shape(_))), "{bad}");
        }
        let long = "a".repeat(1025);
        for path in
            ["../x.json", "/etc/x.json", "a/../../x.json", "a//b", "", ".", "a\\b.json", "a\0.json", "a/./b", &long]
        {
            let bad = json!({"type": "file", "path": path, "oid": "0".repeat(40), "size": 1});
            assert_eq!(from_tree(&bad), Err(BadEntry::Path(path.into())));
        }
    }
}
