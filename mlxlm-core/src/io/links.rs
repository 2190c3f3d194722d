//! Which files of a model folder are its own.

use std::fs;
use std::path::{Path, PathBuf};

use super::WithPath;
use crate::{Error, Result};

/// The file `name` of a model folder, or none where it has no such file.
///
/// A link counts if it leads to a file of the same folder, or, for a snapshot of the hub's cache, to the blobs there: all
/// else belongs to somebody, and must not become part of a model that may be published.
///
/// # Errors
/// [`Error::LinkOut`] for any other link, [`Error::Io`] where the system refuses.
pub fn own_file(folder: &Path, name: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let target = fs::canonicalize(&path).with_path("read", &path)?;
    let home = fs::canonicalize(folder).with_path("read", folder)?;
    if target.starts_with(&home) || blobs(&home).iter().any(|blobs| target.starts_with(blobs)) {
        return Ok(Some(path));
    }
    Err(Error::LinkOut { path, target })
}

/// Where the files of `<cache>/models--org--name/snapshots/<commit>` lie: in the repository's `blobs`, or in those that
/// several repositories share.
fn blobs(snapshot: &Path) -> Vec<PathBuf> {
    let found = || {
        let snapshots = snapshot.parent().filter(|folder| folder.ends_with("snapshots"))?;
        let repo = snapshots.parent()?;
        repo.file_name()?.to_str()?.starts_with("models--").then_some([repo, repo.parent()?])
    };
    let places = found().into_iter().flatten();
    places.filter_map(|folder| fs::canonicalize(folder.join("blobs")).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{Hint, io};

    #[test]
    fn links_out_of_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        io::create_dir_all(model.join("sub")).unwrap();
        for name in ["secret", "model/own", "model/sub/own"] {
            io::write(folder.path().join(name), name).unwrap();
        }
        symlink("sub/own", model.join("inside")).unwrap();
        symlink("../secret", model.join("outside")).unwrap();
        symlink("..", model.join("up")).unwrap();
        symlink("nowhere", model.join("dangling")).unwrap();
        for name in ["own", "inside", "sub/own"] {
            assert_eq!(own_file(&model, name).unwrap(), Some(model.join(name)));
        }
        assert_eq!(own_file(&model, "absent").unwrap(), None);
        assert_eq!(own_file(&model, "dangling").unwrap(), None);
        for name in ["outside", "up/secret"] {
            let error = own_file(&model, name).unwrap_err();
            assert!(error.to_string().contains(&format!("/model/{name}` is a link to `")), "{error}");
            assert!(error.hint().unwrap().contains("copy"));
        }
    }

    #[test]
    fn a_snapshot_of_the_hub_is_made_of_links() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--org--name");
        let snapshot = repo.join("snapshots").join("c0ffee");
        for place in [&snapshot, &repo.join("blobs"), &cache.path().join("blobs/ab"), &repo.join("refs")] {
            io::create_dir_all(place).unwrap();
        }
        for file in [repo.join("blobs/one"), cache.path().join("blobs/ab/two"), repo.join("refs/main")] {
            io::write(file, "x").unwrap();
        }
        symlink("../../blobs/ab/two", repo.join("blobs/two")).unwrap();
        for (name, target, own) in [("a", "blobs/one", true), ("b", "blobs/two", true), ("c", "refs/main", false)] {
            symlink(format!("../../{target}"), snapshot.join(name)).unwrap();
            assert_eq!(own_file(&snapshot, name).is_ok(), own, "{target}");
        }
    }
}
