//! What a commit of a repository holds, and which of it a model needs.
//!
//! Every path and hash of a listing is checked here, since both become names of files in the cache.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::Deserialize;
use serde_json::Value;

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path within the repository, with `/` between folders.
    pub path: String,
    pub size_bytes: u64,
    pub hash: Hash,
}

/// The hash of a file, which is also its name among the cache's blobs, and its `ETag` on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hash {
    /// SHA-1 over git's blob header and the contents: files that git itself holds.
    Git(String),
    /// SHA-256 of the contents: large files.
    Sha256(String),
}

impl Hash {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Git(hex) | Self::Sha256(hex) => hex,
        }
    }
}

/// Why a listing cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadEntry {
    /// The path would lead out of the snapshot folder.
    Path(String),
    /// A field is missing or of the wrong kind.
    Shape(String),
}

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

/// The file that one element of a `tree` answer describes, or none for a folder.
pub(super) fn from_tree(item: &Value) -> Result<Option<Entry>, BadEntry> {
    let item = TreeItem::deserialize(item).map_err(|error| BadEntry::Shape(error.to_string()))?;
    if item.r#type != "file" {
        return Ok(None);
    }
    let (size_bytes, hash) = match item.lfs {
        Some(large) => (large.size, Hash::Sha256(large.oid)),
        None => (item.size, Hash::Git(item.oid)),
    };
    Entry { path: item.path, size_bytes, hash }.checked().map(Some)
}

impl Entry {
    fn checked(self) -> Result<Self, BadEntry> {
        if !is_inside(&self.path) {
            return Err(BadEntry::Path(self.path));
        }
        let digits = match &self.hash {
            Hash::Git(_) => 40,
            Hash::Sha256(_) => 64,
        };
        let hash = self.hash.as_str();
        if hash.len() != digits || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(BadEntry::Shape(format!("`{hash}` is not the hash of `{}`", self.path)));
        }
        Ok(self)
    }
}

/// Whether a path of the listing stays below the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    let plain = !path.is_empty() && !path.contains(['\\', '\0']) && !path.chars().any(char::is_control);
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

/// The shards that an index names, or none where it is not an index.
pub(super) fn shards(index: &Value) -> BTreeSet<String> {
    let names = index.get("weight_map").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The files that a model needs, with the shards of its index alone where the repository holds all of these.
///
/// An index whose shards are not there is stale (the weights were merged later), and all weight files count.
pub(super) fn needed<'a>(entries: &'a [Entry], index: Option<&Value>) -> Vec<&'a Entry> {
    let shards = index.map(shards).unwrap_or_default();
    let listed = |name: &String| entries.iter().any(|entry| entry.path == *name);
    let trusted = !shards.is_empty() && shards.iter().all(listed);
    let keep = |entry: &&Entry| {
        if trusted && entry.path.ends_with(".safetensors") {
            shards.contains(&entry.path)
        } else {
            is_wanted(&entry.path)
        }
    };
    entries.iter().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(path: &str) -> Entry {
        let hash = Hash::Git("0".repeat(40));
        Entry { path: path.to_owned(), size_bytes: 1, hash }
    }

    fn check_needed(paths: &[&str], index: Option<Value>, expected: &[&str]) {
        let entries: Vec<Entry> = paths.iter().map(|path| file(path)).collect();
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
        for path in ["../x.json", "/etc/x.json", "a/../../x.json", "a//b", "", ".", "a\\b.json", "a\0.json", "a/./b"] {
            let bad = json!({"type": "file", "path": path, "oid": "0".repeat(40), "size": 1});
            assert_eq!(from_tree(&bad), Err(BadEntry::Path(path.into())));
        }
    }
}
