//! Names that the hub may be asked about: repository ids and revisions, checked before they become part of a path or
//! an address. The rules are those of the hub, as `huggingface_hub` states them.

use std::fmt;

use super::HubError;

/// What a repository holds. The hub keeps both kinds apart: a model and a dataset may have the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RepoKind {
    Model,
    Dataset,
}

impl RepoKind {
    /// Its name in addresses and folders.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// The id of a repository of a model or a dataset: `org/name`, or `name` alone for the oldest ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId {
    name: String,
    pub(super) kind: RepoKind,
}

impl RepoId {
    /// The id of a model, if `name` obeys the hub's rules.
    pub fn parse(name: &str) -> Result<Self, HubError> {
        match broken_rule(name) {
            None => Ok(Self { name: name.to_owned(), kind: RepoKind::Model }),
            Some(reason) => Err(HubError::NotAName { name: name.to_owned(), reason }),
        }
    }

    /// The id of a dataset, if `name` obeys the hub's rules.
    pub fn dataset(name: &str) -> Result<Self, HubError> {
        Ok(Self { kind: RepoKind::Dataset, ..Self::parse(name)? })
    }

    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The folder of this repository in the cache.
    pub(super) fn folder_name(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.name.replace('/', "--"))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn broken_rule(name: &str) -> Option<&'static str> {
    const LONGEST: usize = 96;
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.contains("://") {
        return Some("it is an address");
    }
    if name.starts_with(['/', '.', '~']) {
        return Some("no such folder exists");
    }
    if name.matches('/').count() > 1 {
        return Some("an id has one `/` at most");
    }
    if name.len() > LONGEST {
        return Some("an id has 96 characters at most");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) {
        return Some("an id is made of letters, digits, `-`, `_` and `.`");
    }
    if name.contains("--") || name.contains("..") {
        return Some("an id has no `--` and no `..`");
    }
    if name.strip_suffix(".git").is_some() {
        return Some("an id does not end in `.git`");
    }
    let bare = |part: &str| part.is_empty() || part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
    name.split('/').any(bare).then_some("its parts neither start nor end with `-` or `.`")
}

/// Whether this is the full name of a commit, which never changes its meaning.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A branch, a tag, a pull request (`refs/pr/1`) or a commit: what may be part of a path below `refs/`.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    const LONGEST: usize = 255;
    let part = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| !c.is_control() && !" ~^:?*[\\".contains(c))
    };
    if revision.len() <= LONGEST && !revision.contains("..") && revision.split('/').all(part) {
        Ok(())
    } else {
        Err(HubError::BadRevision { revision: revision.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    #[test]
    fn ids_of_the_hub_are_taken() {
        for id in ["gpt2", "mlx-community/Llama-3.2-1B-Instruct-4bit", "a/b", "0x/Foo_bar.v1-2", "org/.x"] {
            assert_eq!(RepoId::parse(id).is_ok(), id != "org/.x", "{id}");
        }
        assert_eq!(RepoId::parse("org/name").unwrap().folder_name(), "models--org--name");
        assert_eq!(RepoId::dataset("org/name").unwrap().folder_name(), "datasets--org--name");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let bad = [
            "",
            "/etc",
            "../x",
            "./x",
            "~/x",
            "a/../b",
            "org/..",
            "a/b/c",
            "a//b",
            "a/",
            "/a",
            "a b",
            "a\\b",
            "a\0b",
            "ä/b",
            "a--b/c",
            "-a/b",
            "a/b.",
            "a/b.git",
            "https://huggingface.co/org/name",
            "file:///etc/passwd",
            "a/b?x",
            "a%2Fb",
        ];
        for name in bad {
            let error = RepoId::parse(name).unwrap_err();
            assert!(error.to_string().contains("neither a folder nor a repository id"), "{error}");
            assert!(error.hint().unwrap().contains("org/name"));
        }
        assert!(RepoId::parse(&"a".repeat(97)).is_err());
        assert!(RepoId::parse(&"a".repeat(96)).is_ok());
    }

    #[test]
    fn revisions_stay_below_refs() {
        for revision in ["main", "v1.0", "refs/pr/1", "feature/x", "b737e8d7b1c4a44f0e1b4f9bca1b4d9e9f000000"] {
            check_revision(revision).unwrap();
        }
        for revision in ["", "..", "../../x", "/abs", "a//b", "a/", ".lock", "a/.b", "a\nb", "a b", "a\\b", "a..b"] {
            let error = check_revision(revision).unwrap_err();
            assert!(error.hint().unwrap().contains("main"), "{error}");
        }
        assert!(is_commit(&"0f".repeat(20)));
        assert!(!is_commit(&"0F".repeat(20)) && !is_commit("main") && !is_commit(&"0".repeat(41)));
    }
}
