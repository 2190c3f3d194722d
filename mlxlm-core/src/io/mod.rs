//! Files: every error names its path, what is read is a regular file of bounded size, and what is written appears whole,
//! by rename, or not at all.
//!
//! - `read`: opening and reading. Pipes, devices and folders are refused by name, as are pointers of git-lfs.
//! - `write`: files through a temporary one. What is there and is no file is never replaced.
//! - `temporary`: the names of what is in the making, and the folders that become models.
//! - `disk`: how much room is left.
//! - `links`: which files of a folder are its own.
//! - `shared`: a folder that several processes keep files in.

mod disk;
mod links;
mod read;
mod shared;
mod temporary;
mod write;

use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub use disk::free_disk_bytes;
pub use links::own_file;
pub use read::{MOST_BYTES, lines, open, read, read_json, read_to_string, read_within};
pub use shared::{
    FolderLock, Listed, NewFile, create_private_dir, list_files, private_temporary_dir, remove_file, touch,
};
pub use temporary::{TemporaryFolder, abandon, is_temporary};
#[cfg(feature = "hub")]
pub(crate) use temporary::{link, scratch};
pub use write::{copy, target, write, write_json, write_with};

use crate::{Error, Result};

/// Names the action and the path of a failed file operation.
trait WithPath<T> {
    fn with_path(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> WithPath<T> for io::Result<T> {
    fn with_path(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}

/// The entries of a folder, sorted by name.
pub fn read_dir(path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let path = path.as_ref();
    let mut entries = fs::read_dir(path)
        .and_then(|dir| dir.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
        .with_path("list", path)?;
    entries.sort();
    Ok(entries)
}

/// Makes a folder, but not its parents; one that is there already is fine.
pub fn create_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.with_path("create the folder", path),
    }
}

/// Makes a folder and its parents; one that is there already is fine.
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).with_path("create the folder", path)
}

/// Removes a folder with all that is in it.
pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::remove_dir_all(path).with_path("remove", path)
}

/// Moves a file or folder to a new name on the same disk.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let to = to.as_ref();
    fs::rename(from, to).with_path("rename to", to)
}

/// The folder that `path` lies in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Refuses what is no regular file: reading a pipe waits for ever, and a device has no end.
fn check_regular(found: FileType, action: &'static str, path: &Path) -> Result<()> {
    let kind = match found {
        _ if found.is_file() => return Ok(()),
        _ if found.is_dir() => "a folder",
        _ if found.is_fifo() => "a pipe",
        _ if found.is_socket() => "a socket",
        _ => "a device",
    };
    Err(Error::NotAFile { action, path: path.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A named pipe, at which a careless reader waits for ever.
    pub(super) fn pipe(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn an_error_names_the_path() {
        let error = read("no/such/file").unwrap_err().to_string();
        assert!(error.starts_with("cannot read `no/such/file`: "), "{error}");
    }
}
